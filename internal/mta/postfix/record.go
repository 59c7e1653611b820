package postfix

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"tlsonly/internal/contract"
)

// recordFile is where Apply remembers, beside main.cf, what it has written and
// what stood there before. Without it the entries of lists are still known, by
// their shape; what stood in the place of a single value isn't.
const recordFile = "tlsonly_setup.json"

// RecordPath returns where Apply remembers what it has written into the
// configuration of a directory. While there is such a file, that configuration
// is set up.
func RecordPath(dir string) string { return filepath.Join(dir, recordFile) }

// A record says what Apply has written.
type record struct {
	Comment string `json:"comment"`
	// Entries are those written into lists, each with its kind.
	Entries map[string]entryKind `json:"entries"`
	// Parameters of main.cf, by name.
	Parameters map[string]written `json:"parameters"`
	// Limits says that the limits of our transports which setup wrote are among
	// Parameters: others are the site's. Records of before don't have them.
	Limits bool `json:"limits,omitempty"`
	// Unended are last lines that had no end, by the file.
	Unended map[string]string `json:"unended,omitempty"`
}

// written is what was done to a parameter.
type written struct {
	Before *string `json:"before"` // its lines in main.cf; null: none
	After  string  `json:"after"`  // its value, with one blank for any white space
}

// entryKind says what an entry of ours is.
type entryKind string

// The kinds of entries.
const (
	kindMilter  entryKind = "milter"
	kindSenders entryKind = "senders"
	kindPolicy  entryKind = "policy"
)

const recordComment = "Written by tlsonly setup, which needs it to take back what it wrote. " +
	"Without it undo leaves single values as they are."

// readRecord returns nil for no record.
func readRecord(path string) (*record, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w: nobody has to edit it; without the file setup goes "+
			"by what it finds in main.cf", path, err)
	}
	return r, nil
}

func (r *record) text() (string, error) {
	r.Comment = recordComment
	b, err := json.MarshalIndent(r, "", "  ")
	return string(b) + "\n", err
}

// clone returns a copy to change.
func (r *record) clone() *record {
	if r == nil {
		r = new(record)
	}
	c := &record{
		Entries:    make(map[string]entryKind),
		Parameters: make(map[string]written),
		Unended:    make(map[string]string),
		Limits:     r.Limits,
	}
	maps.Copy(c.Entries, r.Entries)
	maps.Copy(c.Parameters, r.Parameters)
	maps.Copy(c.Unended, r.Unended)
	return c
}

// before returns what a parameter was before Apply wrote the value that it has
// now, and reports whether that is so.
func (f Facts) before(name string) (value string, ok bool) {
	if f.record == nil {
		return "", false
	}
	w, ok := f.record.Parameters[name]
	now, set := f.Set[name]
	if !ok || !set || folded(now) != w.After {
		return "", false
	}
	if w.Before == nil {
		return "", true
	}
	return folded(blockValue(*w.Before)), true
}

// setByUs reports whether a parameter of main.cf has its value from us: by a
// record, or by a reference, as setup wrote them once. Before is what it was.
func (f Facts) setByUs(name, reference string) (before string, ours bool) {
	if slices.Contains(references(reference), f.Set[name]) {
		return "", true
	}
	return f.before(name)
}

// milterShape is an entry as setup writes it, whatever its times. They are
// octet for octet as here, but that there are no blanks in master.cf.
var milterShape = regexp.MustCompile(`^\{ ?(\S+?), ?command_timeout=\d+s, ?content_timeout=\d+s, ` +
	`?default_action=tempfail, ?protocol=6 ?\}$`)

// kindOf tells an entry of a list that is ours from those of the site: by a
// reference, by the record, or by its shape with our sockets. "" is the site's.
func (f Facts) kindOf(item, milter, smap string) entryKind {
	item = folded(item)
	for kind, name := range map[entryKind]string{
		kindMilter: milterParameter, kindSenders: senderParameter, kindPolicy: policyParameter,
	} {
		if slices.Contains(references(name), item) {
			return kind
		}
	}
	if f.record != nil {
		if kind, ok := f.record.Entries[unblanked(item)]; ok {
			return kind
		}
	}
	shape := milterShape.FindStringSubmatch(item)
	switch {
	case shape != nil && shape[1] == milter:
		return kindMilter
	case contract.SenderTable(smap, item), item == "regexp:"+f.path(sendersFile):
		return kindSenders
	case item == contract.MapPolicy.Table(smap):
		return kindPolicy
	}
	return ""
}

// unblanked writes an entry so that it can stand in an option of master.cf.
func unblanked(entry string) string { return strings.Join(strings.Fields(entry), "") }
