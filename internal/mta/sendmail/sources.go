package sendmail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"tlsonly/internal/addr"
)

// Sources are the files in which an installation's forwards and routes stand, and what it takes for itself.
type Sources struct {
	Aliases      []string
	Virtual      []string // virtusertable
	Mailertables []string
	Forward      []string      // of each user; ~ is the home directory, %n the user, %h the detail of user+detail
	Local        []addr.Domain // class w
	VirtualIn    []addr.Domain // class VirtHost, for which Virtual counts besides; never nil
	VirtualBelow bool          // and what lies below these
	// SMART_HOST, MAIL_HUB, LOCAL_RELAY and LUSER_RELAY, "mailer:host" or "host"; "" for none.
	SmartHost, MailHub, LocalRelay, UserRelay string
	Unread                                    []Unread // may send mail on, and can't be followed
}

// Unread is a table or a setting, by the name of its map or option, in lower case, and its line.
type Unread struct{ Name, Line string }

// String returns the line.
func (u Unread) String() string { return u.Line }

// unfollowed are tables that change where mail goes, in ways not known here: FEATURE(ldap_routing), domaintable, bitdomain.
func unfollowed() []string { return []string{"bitdomain", "domaintable", "ldapmh", "ldapmra"} }

// Sources reads sendmail.cf, and asks Sendmail for its class w. Of maps that makemap made it names the source beside them:
// it is in effect when the map was made anew.
func (in Installation) Sources(ctx context.Context) (Sources, error) {
	text, err := os.ReadFile(in.cf())
	if err != nil {
		return Sources{}, fmt.Errorf("read the settings of sendmail: %w", err)
	}
	c := parseConf(string(text))
	said, err := in.expand(ctx, nil, "$=w", "$={VirtHost}", "$w", "$j", "$m")
	if err != nil {
		return Sources{}, err
	}
	s := Sources{Local: domains(said["$=w"]), VirtualIn: domains(said["$={VirtHost}"]),
		VirtualBelow: strings.Contains(c.text, "$* $={VirtHost}"),
		SmartHost:    c.macro["S"], MailHub: c.macro["H"], LocalRelay: c.macro["R"], UserRelay: c.macro["L"]}
	take := func(to *[]string, name, class, path, line string) {
		if path, ok := in.sourceOf(class, path); ok {
			*to = append(*to, path)
			return
		}
		s.Unread = append(s.Unread, Unread{name, line})
	}
	for part := range strings.SplitSeq(c.option["aliasfile"], ",") {
		part = strings.TrimSpace(part)
		class, path, ok := strings.Cut(part, ":")
		if !ok {
			class, path = "", part
		}
		if part != "" {
			take(&s.Aliases, "aliasfile", class, lastWord(path), "AliasFile "+part)
		}
	}
	for _, name := range []string{"virtuser", "mailertable"} {
		to := map[string]*[]string{"virtuser": &s.Virtual, "mailertable": &s.Mailertables}[name]
		if line, ok := c.maps[name]; ok {
			class, args, _ := strings.Cut(line, " ")
			take(to, name, class, lastWord(args), "K"+name+" "+line)
		}
	}
	for _, name := range unfollowed() {
		if line, ok := c.maps[name]; ok {
			s.Unread = append(s.Unread, Unread{name, "K" + name + " " + line})
		}
	}
	if spec := c.option["userdatabasespec"]; spec != "" {
		s.Unread = append(s.Unread, Unread{"userdatabasespec", "UserDatabaseSpec " + spec})
	}
	path, ok := c.option["forwardpath"]
	if !ok {
		path = "$z/.forward"
	}
	for part := range strings.SplitSeq(path, ":") {
		template := strings.NewReplacer("%", "\x00", "$z/", "~/", "$u", "%n", "$h", "%h",
			"$w", said["$w"], "$j", said["$j"], "$m", said["$m"]).Replace(part)
		switch {
		case part == "":
		case strings.ContainsAny(template, "$\x00") || !strings.HasPrefix(template, "~/") && !strings.HasPrefix(template, "/"):
			s.Unread = append(s.Unread, Unread{"forwardpath", "ForwardPath " + part})
		default:
			s.Forward = append(s.Forward, template)
		}
	}
	return s, nil
}

// Asks reports whether sendmail.cf, as it is now, has the rules by which each
// recipient of mail that leaves is asked of the daemon.
func (in Installation) Asks() bool {
	text, err := os.ReadFile(in.cf())
	if err != nil {
		return false
	}
	c := parseConf(string(text))
	return c.hasRules() && c.reports()
}

// madeElsewhere reports whether there is a map but not what it was made from.
func madeElsewhere(path string) bool {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err = os.Stat(path + ".db")
	return err == nil
}

// expand asks for macros and classes, as sendmail -bt knows them with more options.
func (in Installation) expand(ctx context.Context, options []string, what ...string) (map[string]string, error) {
	out, err := in.run(ctx, strings.Join(what, "\n")+"\n", in.program(), append([]string{"-C", in.cf(), "-bt"}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("ask sendmail for its names: %w", err)
	}
	// A prompt stands before each answer.
	_, text, _ := strings.Cut(string(out), "\n> ")
	answers := strings.Split(text, "> ")
	if len(answers) < len(what) {
		return nil, fmt.Errorf("ask sendmail for its names: it said %q", out)
	}
	said := map[string]string{}
	for i, name := range what {
		if said[name] = strings.TrimSpace(answers[i]); said[name] == "Undefined" {
			said[name] = ""
		}
	}
	return said, nil
}

// domains returns those of a class that are some.
func domains(lines string) []addr.Domain {
	found := []addr.Domain{}
	for line := range strings.Lines(lines) {
		if d, err := addr.ParseDomain(strings.TrimSpace(line)); err == nil {
			found = append(found, d)
		}
	}
	return found
}

func lastWord(s string) string {
	words := strings.Fields(s)
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}
