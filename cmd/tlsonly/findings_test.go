package main

import (
	"fmt"
	"testing"

	"tlsonly/internal/config"
	"tlsonly/internal/mta"
)

// A table of any length gives a page of findings, and what is accepted of it
// hides nothing else.
func TestDoctorCapped(t *testing.T) {
	var found []mta.Finding
	for n := range 10_000 {
		found = append(found, finding(mta.Hole, "filter-access", fmt.Sprintf("/etc/postfix/access:%d", n+1), "", "FILTER %d", n))
	}
	found = append(found, finding(mta.Hole, "filter-header", "/etc/postfix/access:7", "", "another kind"),
		finding(mta.Hole, "filter-access", "main.cf:smtpd_sender_restrictions", "", "another place"))
	kept := capped(append([]mta.Finding(nil), found...))
	if n := len(kept); n != mostAlike+3 {
		t.Errorf("%d findings", n)
	}
	if last := kept[mostAlike]; last.Severity != mta.Hole || last.Where != "/etc/postfix/access" || last.Text != "and 9980 more like these" {
		t.Errorf("%+v", last)
	}
	var accepted []config.Acceptance
	for n := range mostAlike {
		accepted = append(accepted, config.Acceptance{Code: "filter-access", Where: fmt.Sprintf("/etc/postfix/access:%d", n+1), Reason: "judged"})
	}
	kept = capped(accept(append([]mta.Finding(nil), found...), accepted))
	count := countLevels(kept)
	if count[mta.Accepted] != mostAlike || count[mta.Hole] != mostAlike+3 || count[mta.Warning] != 0 {
		t.Errorf("%v", count)
	}
	if few := capped(found[:mostAlike]); len(few) != mostAlike {
		t.Errorf("%d of %d findings", len(few), mostAlike)
	}
}
