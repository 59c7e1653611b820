// Command tlsonly makes forced TLS real beside a Postfix or Sendmail: a milter that answers for each recipient
// whether its mail can leave encrypted, and the commands an administrator needs around it.
//
// This package is wiring only: it reads the command line and the configuration file, fills the values of the other
// packages and prints what they say. It decides nothing about mail. One file holds one command.
//
// The settings below let the probe see what an MTA's OpenSSL would: certificates that Go by default doesn't take must not make
// a host look broken.
//
//go:debug x509negativeserial=1
//go:debug rsa1024min=0
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/maillog"
)

// Exit statuses of every command.
const (
	exitOK      = 0
	exitNo      = 1 // a requirement isn't met, an audit found something
	exitUsage   = 2 // usage or configuration
	exitUnknown = 3 // not known now
)

// program is what a command works with.
type program struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

type command struct {
	name    string
	args    string // after the flags, for the usage line
	summary string
	run     func(p *program, ctx context.Context, args []string) int
}

func commands() []command {
	return []command{
		{"serve", "", "run the daemon", (*program).serve},
		{"check", "DESTINATION…|ADDRESS…", "probe destinations now, and show the level each reaches; of an address also what can encrypt to it", (*program).check},
		{"explain", "--from A --to B | --delivery D", "show a decision step by step, or how the MTA is answered at delivery", (*program).explain},
		{"inbound", "--from A --to B", "show what an [[inbound]] rule decides about incoming mail", (*program).inbound},
		{"domains", "[list|show D|history D|pin D|unpin D]", "show what is known of destinations; pin and unpin them", (*program).domains},
		{"observe", "", "show what rules in observe mode would have done", (*program).observe},
		{"keys", "[list|show A|add A FILE|fetch A|trust A|forget A]", "show, add, look for, trust and forget keys and certificates of recipients", (*program).keys},
		{"classes", "[list|release]", "show which rules bind which transport, and release former rules", (*program).classes},
		{"forwards", "[ADDRESS…]", "audit all forwards on this host", (*program).forwards},
		{"setup", "postfix|sendmail", "print or write the settings that bind the MTA", (*program).setup},
		{"doctor", "[postfix|sendmail]", "check that the running MTA is bound", (*program).doctor},
		{"report", "LOG…", "show from mail logs which messages left over TLS", (*program).report},
		{"received", "FILE", "show which hops of a message were encrypted", (*program).received},
		{"lint", "", "check the configuration file", (*program).lint},
		{"version", "", "print the version", (*program).version},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	code := p.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func (p *program) main(ctx context.Context, args []string) int {
	if len(args) == 0 {
		p.usage(p.stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			return p.main(ctx, []string{args[1], "--help"})
		}
		p.usage(p.stdout)
		return exitOK
	case "--version":
		args = []string{"version"}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(p, ctx, args[1:])
		}
	}
	fmt.Fprintf(p.stderr, "tlsonly: unknown command %q; tlsonly help lists the commands\n", args[0])
	return exitUsage
}

func (p *program) usage(w io.Writer) {
	fmt.Fprint(w, "usage: tlsonly COMMAND [flags]\n\nMail of protected senders leaves encrypted or not at all.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-8s  %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\n\"tlsonly COMMAND --help\" shows the flags of a command; tlsonly(8) is the manual.\n"+
		"Exit status: 0 yes or ok, 1 no, 2 usage or configuration, 3 not known now.\n")
}

// parse reads flags, which may stand before, between and after the arguments; "--" ends them. On an error, or when
// help was asked for, ok is false and code is the exit status.
func (p *program) parse(fs *flag.FlagSet, args []string) (rest []string, code int, ok bool) {
	fs.SetOutput(p.stderr)
	fs.Usage = func() {}
	for {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			p.commandUsage(fs)
			return nil, exitOK, false
		case err != nil:
			fmt.Fprintf(p.stderr, "tlsonly %s --help shows the flags\n", fs.Name())
			return nil, exitUsage, false
		}
		if fs.NArg() == 0 {
			return rest, exitOK, true
		}
		if n := len(args) - fs.NArg(); n > 0 && args[n-1] == "--" {
			return append(rest, fs.Args()...), exitOK, true
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// commandUsage prints a command's help, on standard output: it is what was asked for.
func (p *program) commandUsage(fs *flag.FlagSet) {
	w := p.stdout
	for _, c := range commands() {
		if c.name == fs.Name() {
			fmt.Fprintf(w, "usage: tlsonly %s [flags] %s\n\n%s\n\n", c.name, c.args, c.summary)
		}
	}
	if fs.Name() == "report" {
		fmt.Fprintf(w, "Formats of logs, recognized line by line: %s.\n\n", maillog.FormsRead)
	}
	fmt.Fprintln(w, "flags:")
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		dashes := "--"
		if len(f.Name) == 1 {
			dashes = "-"
		}
		line := "  " + dashes + f.Name
		if value != "" {
			line += " " + value
		}
		fmt.Fprintf(w, "%-24s %s", line, usage)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			fmt.Fprintf(w, " (default %s)", f.DefValue)
		}
		fmt.Fprintln(w)
	})
}

// fail prints an error of usage or configuration.
func (p *program) fail(format string, args ...any) int {
	fmt.Fprintf(p.stderr, "tlsonly: "+format+"\n", args...)
	return exitUsage
}

// answer prints a whole answer in JSON, for --json.
func (p *program) answer(v any) error {
	enc := json.NewEncoder(p.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// envelope reads --from and --to; ok is false when it has said what is wrong with them.
func (p *program) envelope(from, to string) (sender, recipient addr.Address, code int, ok bool) {
	sender, err := addr.ParsePath(from)
	if err != nil {
		return sender, recipient, p.fail("--from: %v", err), false
	}
	if recipient, err = addr.ParsePath(to); err != nil {
		return sender, recipient, p.fail("--to: %v", err), false
	}
	if recipient.IsNull() {
		return sender, recipient, p.fail("--to: want an address"), false
	}
	return sender, recipient, exitOK, true
}

// notOpened prints why something of the configuration couldn't be opened. A server that can't be reached is no mistake in
// it, it is away now.
func (p *program) notOpened(err error) int {
	code := p.fail("%v", err)
	if network := (*net.OpError)(nil); errors.As(err, &network) {
		return exitUnknown
	}
	return code
}

// configFlag adds -c to a command.
func configFlag(fs *flag.FlagSet) *string {
	return fs.String("c", config.DefaultPath, "configuration `FILE`")
}

// load reads the configuration file. With optional set, a missing file in the default place is an empty one.
func (p *program) load(file string, optional bool) (*config.Config, bool) {
	c, err := config.Load(file)
	if optional && file == config.DefaultPath && errors.Is(err, os.ErrNotExist) {
		return config.Default(), true
	}
	if err != nil {
		var faults *config.Error
		if errors.As(err, &faults) {
			fmt.Fprintln(p.stderr, strings.TrimRight(faults.Error(), "\n"))
		} else {
			p.fail("%v", err)
		}
		return nil, false
	}
	if optional {
		return c, true
	}
	if c, err = withDelimiter(context.Background(), c); err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
	}
	return c, true
}

// terminal reports whether w is one, so that colours and progress make sense.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
