package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/forward"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// The matrix of forwards: a real MTA with every kind of forward there is, one message for each, and what the program says of
// where it goes held against where it went. Sieve isn't among it: no delivery agent that runs it is at hand, so what is
// known of it is our reader's own.

// forwardCase is one recipient.
type forwardCase struct {
	name    string // of the local part, too
	to      string // "": name@host.example
	from    string // "": one of the case's own
	explain bool   // asked of the command explain: the sender counts, or nothing is forwarded
	differs string // why what is said isn't what happens; it must be something else then
}

// forwardLab is the host of a matrix: its users, files and mailboxes, and the hosts that mail leaves for.
type forwardLab struct {
	t     *testing.T
	dir   string // home/USER, spool/USER, files: as nobody, deliver: a program
	world *testnet.World

	relays bool // local mail is given to inner.example
}

// forwardDomains have a host each.
func forwardDomains() []string { return []string{"far", "bcc", "relay", "route", "inner", "sender"} }

// nobody is whom both MTAs run commands of aliases as.
const nobody = 65534

// newForwardLab makes users with homes, known to the whole namespace.
func newForwardLab(t *testing.T, users []string) *forwardLab {
	t.Helper()
	isolated(t)
	var sites []testnet.Site
	for _, name := range forwardDomains() {
		sites = append(sites, testnet.Site{Domain: name + ".example", Hosts: []testnet.Host{{}}})
	}
	world, err := testnet.StartWorld("127.0.0.1:53", 25, sites)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	l := &forwardLab{t: t, dir: dir, world: world}
	t.Cleanup(func() {
		if err := world.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"home", "spool", "files"} {
		l.check(os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	l.check(os.Chmod(filepath.Join(dir, "spool"), 0o777))
	l.check(os.Chown(filepath.Join(dir, "files"), nobody, nobody))
	passwd, err := os.ReadFile("/etc/passwd")
	l.check(err)
	text := string(passwd)
	for i, name := range users {
		uid, home := 20001+i, filepath.Join(dir, "home", name)
		if name == "nohome" {
			home = filepath.Join(dir, "none")
		} else {
			l.check(os.Mkdir(home, 0o755))
			l.check(os.Chown(home, uid, uid))
		}
		text += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", name, uid, uid, home)
	}
	l.over("/etc/passwd", text, 0o644)
	l.file("deliver", "#!/bin/sh\nexec cat >>\"$1\"\n")
	l.check(os.Chmod(filepath.Join(dir, "deliver"), 0o755))
	return l
}

func (l *forwardLab) check(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// over shows text as a file of the system until the test ends.
func (l *forwardLab) over(path, text string, mode os.FileMode) {
	l.t.Helper()
	own := filepath.Join(l.dir, "over-"+filepath.Base(path))
	l.check(os.WriteFile(own, []byte(text), mode))
	l.check(os.Chmod(own, mode))
	l.check(unix.Mount(own, path, "", unix.MS_BIND, ""))
	l.t.Cleanup(func() { l.check(unix.Unmount(path, 0)) })
}

// file writes a file of the lab; DIR in the text is the lab's directory. What is in a home belongs to its user.
func (l *forwardLab) file(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	l.check(os.MkdirAll(filepath.Dir(path), 0o755))
	l.check(os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", l.dir)), 0o644))
	if rest, ok := strings.CutPrefix(name, "home/"); ok {
		user, _, _ := strings.Cut(rest, "/")
		info, err := os.Stat(filepath.Join(l.dir, "home", user))
		l.check(err)
		who := info.Sys().(*syscall.Stat_t)
		l.check(os.Chown(path, int(who.Uid), int(who.Gid)))
	}
	return path
}

// send gives the MTA a message for each case and returns which of them it didn't take.
func (l *forwardLab) send(address string, cases []forwardCase) (ends []map[string]bool) {
	l.t.Helper()
	ends = make([]map[string]bool, len(cases))
	for i, c := range cases {
		ends[i] = map[string]bool{}
		client := dial(l.t, address)
		client.expect("MAIL FROM:<"+strings.Trim(c.sender(i), "<>")+">", "250")
		reply, err := client.say("RCPT TO:<" + c.recipient() + ">")
		l.check(err)
		if strings.HasPrefix(reply, "250") {
			client.expect("DATA", "354")
			reply, err = client.say(fmt.Sprintf("Subject: case-%d-\r\n\r\nHello.\r\n.", i))
			l.check(err)
		}
		switch {
		case strings.HasPrefix(reply, "250"):
		case strings.HasPrefix(reply, "5"):
			ends[i]["refused"] = true
		default:
			ends[i]["waits"] = true
		}
		client.conn.Close()
	}
	return ends
}

func (c forwardCase) recipient() string {
	if c.to != "" {
		return c.to
	}
	return c.name + "@host.example"
}

func (c forwardCase) sender(i int) string {
	if c.from != "" {
		return c.from
	}
	return fmt.Sprintf("s%d@sender.example", i)
}

var caseMark = regexp.MustCompile(`case-(\d+)-`)

// casesIn returns the numbers of the cases that a text mentions.
func casesIn(text []byte) []int {
	var found []int
	for _, m := range caseMark.FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if err == nil && !slices.Contains(found, n) {
			found = append(found, n)
		}
	}
	return found
}

// collect adds where messages went: to hosts, mailboxes, files and programs. A bounce says that one was refused.
func (l *forwardLab) collect(ends []map[string]bool) {
	l.t.Helper()
	for _, domain := range l.world.Domains() {
		for _, m := range l.world.Messages(domain) {
			for _, n := range casesIn(m.Data) {
				if bytes.Contains(m.Data, []byte("multipart/report")) { // to the sender, or the owner of a list
					ends[n]["refused"] = true
					continue
				}
				for _, to := range m.To {
					for _, relay := range []string{"inner.example", "[mx1.inner.example]"} {
						if l.relays { // Sendmail puts the relay's name in the place of its own
							to = strings.Replace(to, "@"+relay, "@host.example", 1)
						}
					}
					ends[n][leaving(addr.MustAddress(to), domain)] = true
				}
			}
		}
	}
	l.check(filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rest, err := filepath.Rel(l.dir, path)
		if err != nil {
			return err
		}
		top, name, below := strings.Cut(rest, "/")
		if !below || top != "spool" && top != "files" && top != "home" {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, n := range casesIn(text) {
			switch {
			case top == "spool":
				ends[n]["mailbox "+name] = true
			case strings.HasPrefix(filepath.Base(name), "cmd"):
				ends[n]["command"] = true
			default:
				ends[n]["file "+filepath.Base(name)] = true
			}
		}
		return err
	}))
}

func leaving(a addr.Address, host string) string {
	for i, name := range forwardDomains() {
		if host == fmt.Sprintf("[127.0.1.%d]", i+1) {
			host = name + ".example"
		}
	}
	return a.Fold().String() + " by " + strings.TrimPrefix(host, "mx1.")
}

// says is what the program says of the cases, by its commands forwards and explain; what ends here, of which these commands
// don't speak, is what the expander behind them says.
func (l *forwardLab) says(cases []forwardCase, forwarding string) []map[string]bool {
	l.t.Helper()
	text := "[dns]\nresolver = \"127.0.0.1:53\"\n[probe]\nhelo = \"host.example\"\ntimeout = \"2s\"\nconfirm = \"20ms\"\n[store]\nurl = \"sqlite://DIR/state.db\"\n" +
		"[forwarding]\n" + forwarding + "[[rule]]\nname = \"all\"\nforwarder = [\"@.example\"]\ntls = \"encrypt\"\n" +
		"[[rule]]\nname = \"senders\"\nfrom = [\"@sender.example\"]\ntls = \"encrypt\"\n"
	file := l.file("tlsonly.toml", text)
	said := make([]map[string]bool, len(cases))
	var ask []string
	by := map[string][]int{}
	for i, c := range cases {
		said[i] = map[string]bool{}
		if c.explain {
			var e explanation
			l.command(&e, "explain", "-c", file, "--json", "--from", c.sender(i), "--to", c.recipient())
			for _, d := range e.Destinations {
				said[i][leaving(e.To, d.Host().String())] = true
			}
			for _, leaf := range e.Forwards {
				hops := leaf.Hops
				if len(hops) == 0 {
					hops = []addr.Destination{addr.DomainDestination(leaf.Address.Domain)}
				}
				for _, hop := range hops {
					if leaf.Kind == forward.Unknown {
						said[i]["waits"] = true
					} else {
						said[i][leaving(leaf.Address, hop.Host().String())] = true
					}
				}
			}
			continue
		}
		owner := addr.MustAddress(c.recipient()).Fold().String()
		ask = append(ask, owner)
		by[owner] = append(by[owner], i)
	}
	type finding struct {
		Owner       addr.Address
		Leaves      *addr.Address
		Destination addr.Destination
	}
	for line := range bytes.Lines(l.command(nil, append([]string{"forwards", "-c", file, "--json"}, ask...)...)) {
		var f finding
		l.check(json.Unmarshal(line, &f))
		indices := by[f.Owner.Fold().String()]
		if len(indices) == 0 {
			l.t.Errorf("forwards speaks of %s, who wasn't asked for", f.Owner)
		}
		for _, i := range indices {
			if f.Leaves == nil {
				said[i]["waits"] = true
			} else {
				said[i][leaving(*f.Leaves, f.Destination.Host().String())] = true
			}
		}
	}
	l.here(cases, said, file)
	return said
}

// here adds the ends of the cases on this host.
func (l *forwardLab) here(cases []forwardCase, said []map[string]bool, file string) {
	l.t.Helper()
	c, err := config.Load(file)
	l.check(err)
	expander, err := newForwards(l.t.Context(), c, slog.New(slog.DiscardHandler))
	l.check(err)
	for i, c := range cases {
		x := expander.Expand(l.t.Context(), addr.MustAddress(c.recipient()), addr.MustAddress(c.sender(i)))
		for _, leaf := range x.Leaves {
			switch leaf.Kind {
			case forward.Mailbox:
				said[i]["mailbox "+leaf.Address.Fold().Base().Local] = true
			case forward.File:
				said[i]["file "+filepath.Base(leaf.Detail)] = true
			case forward.Command, forward.Refused:
				said[i][string(leaf.Kind)] = true
			case forward.Discard, forward.Leaves, forward.Unknown:
			}
		}
	}
}

// command runs a command of the program, whatever its exit status, and decodes its answer unless into is nil.
func (l *forwardLab) command(into any, args ...string) []byte {
	l.t.Helper()
	exe, err := os.Executable()
	l.check(err)
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Args = append([]string{"tlsonly"}, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code < 0 || code == exitUsage {
		l.t.Fatalf("%q: %v: %s", args, err, stderr.Bytes())
	}
	if into != nil {
		l.check(json.Unmarshal(out, into))
	}
	return out
}

// everybodys is where the copy of all mail goes.
const everybodys = "always@bcc.example by bcc.example"

// judge compares and prints the matrix.
func (l *forwardLab) judge(cases []forwardCase, said, real []map[string]bool) {
	l.t.Helper()
	show := func(ends map[string]bool) string {
		ends = maps.Clone(ends)
		delete(ends, everybodys)
		if len(ends) == 0 {
			return "nothing"
		}
		return strings.Join(slices.Sorted(maps.Keys(ends)), ", ")
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(name, said, real, same string) { fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", name, said, real, same) }
	row("CASE", "PREDICTED", "REAL", "SAME")
	bad := 0
	for i, c := range cases {
		if len(real[i]) == 1 && (real[i]["refused"] || real[i]["waits"]) {
			delete(said[i], everybodys) // a copy of mail that wasn't taken isn't made
		}
		word, equal := "yes", maps.Equal(said[i], real[i])
		switch {
		case c.differs != "" && equal:
			word = "NO LONGER DIFFERS: " + c.differs
			bad++
		case c.differs != "":
			word = "differs: " + c.differs
			// What differs may only be told as worse than it is.
			for end := range real[i] {
				if strings.Contains(end, " by ") && !said[i][end] && !said[i]["waits"] {
					word = "LEAVES UNSEEN"
					bad++
				}
			}
		case !equal:
			word = "NO"
			bad++
		}
		row(c.name, show(said[i]), show(real[i]), word)
	}
	l.check(table.Flush())
	l.t.Logf("%d forwards, %d not as predicted:\n%s", len(cases), bad, text.String())
	if bad > 0 {
		l.t.Fail()
	}
}
