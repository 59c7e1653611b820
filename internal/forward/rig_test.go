package forward_test

import (
	"context"
	"errors"
	"fmt"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/testnet/rig"
)

func TestMain(m *testing.M) {
	rig.Enter()
	os.Exit(m.Run())
}

// What Expand says is where a real Postfix delivers: every transport discards here, and the log tells for whom.
func TestAgainstPostfix(t *testing.T) {
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// The users are some that every Debian has.
	write("list", "li1@far.test\ngames+li\n\"|prog\"\n")
	write("aliases", strings.ReplaceAll(`a1 bin
a2 x2@virt.test
a3 c3@far.test
a4 c4@far.test
a5 a6
a6 c6@far.test
a7 sys@host.test
a8 a8, c8@far.test
a9 \bin
a10 games
a11 :include:DIR/list
a12 /dev/null, c12@far.test
a13 "c13%far.test"@host.test
a14 me, man
a15 nosuchuser, c15@far.test
me a14, c14@far.test
full+ext cx@far.test
loop1 loop2, lx@far.test
loop2 loop1
up Upper@Far.TEST
g2 games
`, "DIR", dir))
	write("virtual", `bin@host.test v1@far.test
x2@virt.test y2@far.test
self@virt.test self@virt.test, o@far.test
ext@virt.test base@far.test
@cat.test @far.test
many@virt.test a1, sys
bare bareaddr@far.test
sys+tag@host.test tagged@far.test
chain@virt.test chain2@virt.test, ch1@far.test
chain2@virt.test ch2@far.test, a4+zz@host.test
`)
	write("re", "/^re-(.*)@virt\\.test$/ re+$1@far.test\n/^@virt\\.test$/ never@far.test\n")
	write("canon", "c3@far.test d3@far.test\nold@host.test games@host.test\n")
	write("bcc", "y2@far.test bccy2@far.test\na1@host.test bcca1@far.test\nc3@far.test bccc3@far.test\nsys@host.test a5\nx2@virt.test bccx2@far.test\n")
	write("transport", "t.test discard:x\n.t.test discard:y\nman@host.test discard:z\n")
	write("fwd.games", "games, f13@far.test\n")
	write("fwd.lp", "\\lp, f14@far.test\n")
	write("fwd.mail", "games\n")
	write("fwd.news", "news@host.test, bin@host.test, a6\n")
	write("fwd.uucp", "g2, mail\n")
	write("fwd.proxy", "proxy, backup@host.test\n")
	write("fwd.backup", "proxy\n")
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{Main: map[string]string{
		"myhostname": "host.test", "mydestination": "host.test", "recipient_delimiter": "+",
		"alias_maps": "texthash:" + dir + "/aliases", "virtual_alias_maps": "texthash:" + dir + "/virtual, regexp:" + dir + "/re",
		"virtual_alias_domains": "virt.test cat.test", "recipient_canonical_maps": "texthash:" + dir + "/canon",
		"recipient_bcc_maps": "texthash:" + dir + "/bcc", "transport_maps": "texthash:" + dir + "/transport",
		"default_transport": "discard", "mailbox_transport": "discard", "local_recipient_maps": "", "forward_path": dir + "/fwd.$user",
		"virtual_mailbox_domains": "vm.test", "virtual_transport": "discard", "virtual_mailbox_maps": "inline:{joe@vm.test=x}",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	e, err := forward.New(forward.Config{Tables: &postfix.Tables{Instance: postfix.Instance{Dir: p.Etc}}})
	if err != nil {
		t.Fatal(err)
	}
	recipients := strings.Fields(`a1@host.test a2@host.test a3@host.test a4+zz@host.test a5@host.test a7@host.test a8@host.test a9@host.test a10@host.test
		a11@host.test a12@host.test a13@host.test a14@host.test a15@host.test full+ext@host.test full+other@host.test loop1@host.test up@host.test g2@host.test
		x2@virt.test self@virt.test ext+tag@virt.test joe@cat.test joe+e@cat.test many@virt.test bare@host.test sys+tag@host.test sys+x@host.test
		chain@virt.test re-x@virt.test c3@far.test old@host.test games@host.test games+e@host.test lp@host.test mail@host.test news@host.test uucp@host.test
		proxy@host.test man@host.test nosuch@host.test pc%far.test@host.test far.test!b@host.test "q@far.test"@host.test bin@[127.0.0.1] x@t.test x@b.t.test joe+x@vm.test
		GAMES@Host.Test`)
	for i, to := range recipients {
		if err := smtp.SendMail(p.Addr, nil, fmt.Sprintf("s%d@sender.test", i), []string{to}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
			t.Errorf("%s: %v", to, err)
		}
	}
	for quiet := 0; quiet < 3; { // mail that is sent on is in the queue before its origin is out
		queue, err := p.Queue(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if quiet++; len(queue) > 0 {
			quiet = 0
		}
	}
	// The log comes in order: behind this line nothing of theirs is missing.
	if err := smtp.SendMail(p.Addr, nil, "last@sender.test", []string{"last@far.test"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitLog(ctx, "to=<last@far.test>"); err != nil {
		t.Fatal(err)
	}
	sender := map[string]string{} // by queue id
	ends := map[string][]string{} // by sender
	from := regexp.MustCompile(`qmgr\[\d+\]: (\w+): from=<(.*?)>`)
	to := regexp.MustCompile(`/discard\[\d+\]: (\w+): to=<(.*?)>,.*status=sent`)
	for line := range strings.Lines(p.Log()) {
		if m := from.FindStringSubmatch(line); m != nil {
			sender[m[1]] = m[2]
		}
		if m := to.FindStringSubmatch(line); m != nil {
			ends[sender[m[1]]] = append(ends[sender[m[1]]], addr.MustAddress(m[2]).Fold().String())
		}
	}
	delivered := 0
	for i, to := range recipients {
		from := fmt.Sprintf("s%d@sender.test", i)
		x := e.Expand(ctx, addr.MustAddress(to), addr.MustAddress(from))
		var said []string
		for _, l := range x.Leaves {
			if l.Kind == forward.Discard && l.Detail != "/dev/null" {
				said = append(said, l.Address.Fold().String())
			}
		}
		delivered += len(said)
		slices.Sort(said)
		slices.Sort(ends[from])
		if seen := slices.Compact(ends[from]); !slices.Equal(seen, slices.Compact(said)) {
			t.Errorf("%s: postfix %q, we %q (%s)", to, seen, said, brief(x))
		}
	}
	if delivered < len(recipients) {
		t.Errorf("only %d deliveries of %d recipients were compared", delivered, len(recipients))
	}
}
