package monitor

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/store"
)

// Notifier tells people and programs what changed: a command at once, mail at once for lost TLS and in a digest for
// the rest.
type Notifier struct {
	c NotifyConfig

	mu      sync.Mutex
	command []store.Event // not handed to the command yet
	mail    []store.Event // not mailed yet
	urgent  bool          // there is lost TLS among mail
	events  chan struct{} // there are some for the command
	lost    chan struct{} // there is some for mail
}

// NotifyConfig says who is told. Zero fields mean the defaults named.
type NotifyConfig struct {
	Command  []string      // program, absolute, and its arguments; none: no command
	Mail     addr.Address  // null: no mail
	Host     string        // this host's name, for the text
	Sendmail string        // the MTA's submission program; /usr/sbin/sendmail
	Digest   time.Duration // shortest time between two mails without lost TLS; 1 h
	Urgent   time.Duration // and between two with: a provider that loses it has many domains; 1 min
	Limit    time.Duration // for the command, and for handing over a mail; 30 s
	Log      *slog.Logger
	Now      func() time.Time
}

// NewNotifier returns a Notifier; Run does the work.
func NewNotifier(c NotifyConfig) *Notifier {
	c.Sendmail = cmp.Or(c.Sendmail, "/usr/sbin/sendmail")
	c.Digest = cmp.Or(c.Digest, time.Hour)
	c.Urgent = cmp.Or(c.Urgent, time.Minute)
	c.Limit = cmp.Or(c.Limit, 30*time.Second)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Notifier{c: c, events: make(chan struct{}, 1), lost: make(chan struct{}, 1)}
}

const (
	// maxWaiting bounds what waits to be told; the history has everything.
	maxWaiting = 10_000
	// lastTime is how long Run goes on to tell at the end.
	lastTime = 5 * time.Second
)

// Tell takes an event; it doesn't wait. Of pins that are made mail doesn't speak: that is what happens to any
// destination.
func (n *Notifier) Tell(e store.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.c.Command) > 0 && len(n.command) < maxWaiting {
		n.command = append(n.command, e)
		poke(n.events)
	}
	if !n.c.Mail.IsNull() && len(n.mail) < maxWaiting && e.What != store.Pinned {
		n.mail = append(n.mail, e)
		if isUrgent(e) {
			n.urgent = true
			poke(n.lost)
		}
	}
}

// isUrgent reports whether an event is told without waiting for others: mail
// waits, or may leave in the clear.
func isUrgent(e store.Event) bool { return e.What == store.LostTLS || e.What == store.Unbound }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run tells until ctx ends; what waits then is told, as far as that goes in a few seconds.
func (n *Notifier) Run(ctx context.Context) {
	work, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastTime, end) })()
	var wg sync.WaitGroup
	wg.Go(func() {
		n.mailing(ctx, work)
		n.sendMail(work)
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-n.events:
				n.runCommand(work)
			}
		}
		n.runCommand(work)
	})
	wg.Wait()
}

// mailing sends mails, under the context work, until ctx ends, and no more often than it may.
func (n *Notifier) mailing(ctx, work context.Context) {
	digest, urgent := time.NewTimer(n.c.Digest), time.NewTimer(n.c.Urgent)
	defer digest.Stop()
	defer urgent.Stop()
	digestDue, urgentDue := false, true // their time has come
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.lost:
		case <-urgent.C:
			urgentDue = true
		case <-digest.C:
			digestDue = true
		}
		n.mu.Lock()
		lost := urgentDue && n.urgent
		n.mu.Unlock()
		if lost {
			urgentDue = false
			urgent.Reset(n.c.Urgent)
		}
		if lost || digestDue {
			digestDue = false
			digest.Reset(n.c.Digest)
			n.sendMail(work)
		}
	}
}

// event is store.Event as the command reads it; that one's number isn't known here.
type event struct {
	When        time.Time        `json:"when"`
	Destination addr.Destination `json:"destination"`
	What        store.What       `json:"what"`
	From        string           `json:"from,omitempty"`
	To          string           `json:"to,omitempty"`
	Why         string           `json:"why,omitempty"`
}

// report is what the command reads on its standard input.
type report struct {
	Host   string  `json:"host"`
	Events []event `json:"events"`
}

// runCommand hands all events that wait to one run of the command. Events are told once, whether it succeeds or not.
func (n *Notifier) runCommand(ctx context.Context) {
	n.mu.Lock()
	told := n.command
	n.command = nil
	n.mu.Unlock()
	if len(told) == 0 {
		return
	}
	r := report{Host: n.c.Host}
	for _, e := range told {
		r.Events = append(r.Events, event{e.When.UTC(), e.Destination, e.What, e.From, e.To, e.Why})
	}
	input, err := json.Marshal(r)
	if err == nil {
		err = n.run(ctx, append(input, '\n'), n.c.Command...)
	}
	if err != nil {
		n.c.Log.Error("notify command", "events", len(told), "err", err)
	}
}

// sendMail hands one mail with all events that wait to the MTA. When it can't, they wait for the next mail.
func (n *Notifier) sendMail(ctx context.Context) {
	n.mu.Lock()
	events, urgent := n.mail, n.urgent
	n.mail, n.urgent = nil, false
	n.mu.Unlock()
	if len(events) == 0 {
		return
	}
	// The empty sender: nobody wants a bounce, or an automatic reply, of a report.
	if err := n.run(ctx, n.message(events), n.c.Sendmail, "-i", "-f", "<>", "--", n.c.Mail.String()); err != nil {
		n.c.Log.Error("notify mail", "events", len(events), "err", err)
		n.mu.Lock()
		n.mail = append(events, n.mail...)
		n.mail = n.mail[:min(len(n.mail), maxWaiting)]
		n.urgent = n.urgent || urgent
		n.mu.Unlock()
	}
}

// message writes the mail: what was lost first.
func (n *Notifier) message(events []store.Event) []byte {
	lost, unbound := 0, false
	var urgent, others strings.Builder
	for _, e := range events {
		to := &others
		if isUrgent(e) {
			lost++
			to = &urgent
		}
		unbound = unbound || e.What == store.Unbound
		whose := e.Destination.String()
		if e.Destination.IsZero() {
			whose = "this host"
		}
		fmt.Fprintf(to, "%s  %s: %s\n", e.When.UTC().Format("2006-01-02 15:04 MST"), whose, printable(describe(e)))
	}
	subject := fmt.Sprintf("tlsonly: %d changes of destinations", len(events))
	if len(events) == 1 {
		subject = "tlsonly: a destination changed"
	}
	if lost > 0 {
		subject = fmt.Sprintf("tlsonly: TLS lost, %d of %d changes", lost, len(events))
	}
	if unbound {
		subject = "tlsonly: the MTA isn't bound, protected mail may leave in the clear"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: tlsonly <%s>\nTo: %s\nSubject: %s\nDate: %s\nAuto-Submitted: auto-generated\n"+
		"MIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n", n.c.Mail, n.c.Mail, subject, n.c.Now().Format(time.RFC1123Z))
	fmt.Fprintf(&b, "Seen by tlsonly on %s:\n\n", printable(n.c.Host))
	b.WriteString(urgent.String())
	if lost > 0 && lost < len(events) {
		b.WriteByte('\n')
	}
	b.WriteString(others.String())
	b.WriteString("\n\"tlsonly domains history DESTINATION\" shows more.\n")
	return b.Bytes()
}

func describe(e store.Event) string {
	s := string(e.What)
	if e.What == store.LostTLS {
		s = "TLS lost: mail of protected senders waits"
	}
	if e.What == store.Unbound {
		s = "not bound: protected mail may leave in the clear"
	}
	if e.What == store.Bound {
		s = "bound again"
	}
	if e.What == store.Outage {
		s = "its own network is suspected, destinations aren't blamed meanwhile"
	}
	switch e.What {
	case store.KeyChanged:
		s = "another key is published"
	case store.KeyWithdrawn:
		s = "a key is withdrawn"
	}
	if e.From != "" || e.To != "" {
		s += fmt.Sprintf(" (%s -> %s)", orNothing(e.From), orNothing(e.To))
	}
	if e.Why != "" {
		s += ", " + e.Why
	}
	return s
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// maxText keeps lines below what RFC 5322, section 2.1.1, allows, with a destination of any length before it.
const maxText = 600

// printable returns s as one line of ASCII: whatever a stranger may have put into a name, it can't add a line.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return s
}

// run runs a program with input, a time limit, no shell and a bounded memory of what it says. What it started ends
// with it, when it ends by the limit.
func (n *Notifier) run(ctx context.Context, input []byte, argv ...string) error {
	limited, cancel := context.WithTimeout(ctx, n.c.Limit)
	defer cancel()
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...) // #nosec G204 -- the configuration's words, as they stand there
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	said := &head{left: 1000}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = fmt.Errorf("cut short: %w", err)
	case limited.Err() != nil:
		err = fmt.Errorf("no end within %s: %w", n.c.Limit, err)
	}
	if text := strings.TrimSpace(string(said.kept)); text != "" {
		return fmt.Errorf("%s: %w: %q", argv[0], err, text)
	}
	return fmt.Errorf("%s: %w", argv[0], err)
}

// head keeps the first octets written to it.
type head struct {
	kept []byte
	left int
}

func (h *head) Write(p []byte) (int, error) {
	keep := p[:min(len(p), h.left)]
	h.left -= len(keep)
	h.kept = append(h.kept, keep...)
	return len(p), nil
}
