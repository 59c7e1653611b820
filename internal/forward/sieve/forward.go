package sieve

import (
	"net/url"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// harmless are the commands that send no mail, or only to the sender of the message.
var harmless = [...]string{
	"require", "if", "elsif", "else", "stop", "keep", "discard", "fileinto", // RFC 5228
	"set",                              // RFC 5229
	"setflag", "addflag", "removeflag", // RFC 5232
	"vacation",          // RFC 5230
	"reject", "ereject", // RFC 5429
	"addheader", "deleteheader", // RFC 5293
	"foreverypart", "break", "replace", // RFC 5703
	"enclose", "extracttext", // RFC 5703
	"return", "global", // RFC 6609
	"convert",                    // RFC 6558
	"error",                      // RFC 5463
	"mark", "unmark", "denotify", // drafts that are in use
	"debug_log", "snooze", "processcalendar", // Pigeonhole, RFC 9042's kin
}

// walk goes through the commands and collects.
type walk struct {
	found    []Forward
	required map[string]bool
	set      map[string]*constant
	mayEnd   bool // something before may have ended the script
	included bool
}

// constant is a variable that is set exactly once.
type constant struct {
	value string
	usual bool // set at the top level, to a string, without modifiers
	times int
	seen  bool // the walk is past it
}

func newWalk(cs []*command) *walk {
	w := &walk{required: make(map[string]bool), set: make(map[string]*constant)}
	w.survey(cs, true)
	return w
}

// survey collects what must be known before: extensions, and how often each variable is set.
func (w *walk) survey(cs []*command, top bool) {
	for _, c := range cs {
		switch c.name {
		case "require":
			for _, a := range c.args {
				for _, s := range a.strings {
					w.required[strings.ToLower(s)] = true
				}
			}
		case "include", "global":
			w.included = true // shares variables (RFC 6609, sections 3.3 and 3.4)
		case "extracttext": // RFC 5703, section 7: the last argument is a variable
			if v := lastString(c); v != "" {
				w.variable(v).times += 2
			}
		case "set":
			ss := plain(c)
			if len(ss) != 2 {
				break
			}
			v := w.variable(ss[0])
			v.times++
			v.value, v.usual = ss[1], top && len(c.args) == 2
		}
		w.survey(c.block, false)
	}
}

func (w *walk) variable(name string) *constant {
	name = strings.ToLower(name)
	v := w.set[name]
	if v == nil {
		v = &constant{}
		w.set[name] = v
	}
	return v
}

// commands reports whether they may end the script.
func (w *walk) commands(cs []*command, inside bool) {
	for _, c := range cs {
		uncertain := inside || w.mayEnd
		switch c.name {
		case "redirect":
			w.redirect(c, uncertain)
		case "notify":
			w.notify(c, uncertain)
		case "report": // vnd.dovecot.report: type, message, address
			w.address(Forward{Kind: Notify, Line: c.line, Conditional: uncertain}, lastString(c))
		case "include":
			w.include(c, uncertain)
			w.mayEnd = true // "stop" in it ends this script, too (RFC 6609, section 3.1)
		case "pipe", "filter", "execute": // vnd.dovecot.pipe and its kin; execute as a command
			w.found = append(w.found, Forward{Kind: Program, Text: firstString(c), Line: c.line, Conditional: uncertain,
				Copy: has(c, "copy")})
		case "stop", "return", "reject", "ereject", "error":
			w.mayEnd = true
		case "set":
			if ss := plain(c); len(ss) == 2 {
				w.variable(ss[0]).seen = true
			}
		default:
			if !slices.Contains(harmless[:], c.name) {
				w.found = append(w.found, Forward{Kind: Unknown, Text: c.name, Line: c.line, Conditional: uncertain})
			}
		}
		for _, t := range c.tests {
			w.test(t, uncertain)
		}
		w.commands(c.block, true)
	}
}

// test finds the one test that hands the message on (vnd.dovecot.execute, vnd.dovecot.filter).
func (w *walk) test(t *command, uncertain bool) {
	if t.name == "execute" || t.name == "filter" {
		w.found = append(w.found, Forward{Kind: Program, Text: firstString(t), Line: t.line, Conditional: uncertain})
	}
	for _, inner := range t.tests {
		w.test(inner, true)
	}
}

func (w *walk) redirect(c *command, uncertain bool) {
	f := Forward{Kind: Redirect, Line: c.line, Conditional: uncertain, Copy: has(c, "copy"), List: has(c, "list")}
	w.address(f, lastString(c))
}

// address adds f with the address s.
func (w *walk) address(f Forward, s string) {
	f.Text = s
	s, known := w.expand(s)
	a, err := addr.ParsePath(mailbox(s))
	if f.Unresolved = !known || f.List || err != nil || a.IsNull(); !f.Unresolved {
		f.Address = a
	}
	w.found = append(w.found, f)
}

// mailbox takes the name off "Name <user@domain>": RFC 5228, section 2.4.2.3, forbids it, Pigeonhole and Cyrus take it.
func mailbox(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '<'); i > 0 && strings.HasSuffix(s, ">") {
		return s[i:]
	}
	return s
}

func (w *walk) notify(c *command, uncertain bool) {
	f := Forward{Kind: Notify, Line: c.line, Conditional: uncertain}
	if options, ok := valueOf(c, "options"); ok && !w.required["enotify"] && w.required["notify"] {
		// The draft before RFC 5435, which Cyrus and old Pigeonhole have: the addresses are in :options.
		for _, s := range options {
			w.address(f, s)
		}
		return
	}
	if f.Text = lastString(c); f.Text == "" || len(plain(c)) != 1 && !w.required["enotify"] {
		f.Unresolved = true
		w.found = append(w.found, f)
		return
	}
	uri, known := w.expand(f.Text)
	scheme, rest, ok := strings.Cut(uri, ":")
	switch {
	case !known || !ok:
		f.Unresolved = true
		w.found = append(w.found, f)
	case !strings.EqualFold(scheme, "mailto"):
		// xmpp:, tel: and others aren't mail: nothing leaves by SMTP.
	default:
		w.mailto(f, rest)
	}
}

// mailto adds every address of a mailto URI (RFC 6068, section 2): in the path, and in to, cc and bcc.
func (w *walk) mailto(f Forward, rest string) {
	path, query, _ := strings.Cut(rest, "?")
	lists := []string{path}
	for field := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(field, "=")
		if slices.Contains([]string{"to", "cc", "bcc"}, strings.ToLower(name)) {
			lists = append(lists, value)
		}
	}
	found := 0
	for _, list := range lists {
		// RFC 6068 separates by "," and has "%2C" inside an address; by RFC 2368, and to Pigeonhole, "%2C" separates.
		decoded, err := url.PathUnescape(list)
		if err != nil {
			decoded = list
		}
		for one := range strings.SplitSeq(decoded, ",") {
			if one == "" {
				continue
			}
			found++
			g := f
			a, err2 := addr.ParsePath(mailbox(one))
			if g.Unresolved = err != nil || err2 != nil || a.IsNull(); !g.Unresolved {
				g.Address = a
			}
			w.found = append(w.found, g)
		}
	}
	if found == 0 {
		f.Unresolved = true
		w.found = append(w.found, f)
	}
}

func (w *walk) include(c *command, uncertain bool) {
	f := Forward{Kind: Include, Text: lastString(c), Line: c.line, Conditional: uncertain, Location: Personal}
	f.Optional = has(c, "optional")
	if has(c, "global") {
		f.Location = Global
	}
	// RFC 6609, section 3.2: the name must be a constant; who takes variables all the same, runs another script.
	name, known := w.expand(f.Text)
	f.Unresolved = !known || name != f.Text
	w.found = append(w.found, f)
}

// expand puts in the variables that can be known (RFC 5229, section 3). known is false when one isn't.
func (w *walk) expand(s string) (out string, known bool) {
	if w.required["encoded-character"] { // RFC 5228, section 2.4.2.4
		if lower := strings.ToLower(s); strings.Contains(lower, "${hex:") || strings.Contains(lower, "${unicode:") {
			return "", false
		}
	}
	if !w.required["variables"] {
		return s, true
	}
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), true
		}
		end := strings.IndexByte(s[i:min(len(s), i+maxName)], '}')
		if b.Len() > maxExpanded || end < 0 && len(s)-i > maxName {
			return "", false
		}
		if end < 0 || !variableName(s[i+2:i+end]) { // not a reference: stays as it is
			b.WriteString(s[:i+2])
			s = s[i+2:]
			continue
		}
		v := w.set[strings.ToLower(s[i+2:i+end])]
		if v == nil || len(v.value) > maxExpanded || w.included || v.times != 1 || !v.usual || !v.seen || strings.Contains(v.value, "${") {
			return "", false
		}
		b.WriteString(s[:i] + v.value)
		s = s[i+end+1:]
	}
}

const (
	maxExpanded = 4096 // more than an address or a URI has: a variable used a thousand times isn't written out
	maxName     = 256  // RFC 5229, section 3, wants 32 for a variable's name
)

// variableName takes identifiers, with namespaces, and the numbers of matches.
func variableName(s string) bool {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" {
			return false
		}
		for i := range len(part) {
			if !letter(part[i]) && !digit(part[i]) {
				return false
			}
		}
	}
	return true
}

// withValue are the tags after which an argument belongs to the tag.
var withValue = [...]string{
	"notify", "ret", "bytimeabsolute", "bytimerelative", "bymode", // RFC 6009
	"from", "importance", "options", "message", // RFC 5435
	"method", "id", // the draft before it
	"input", "output", // vnd.dovecot.execute
}

// plain lists the strings of the arguments that belong to no tag.
func plain(c *command) []string {
	var ss []string
	skip := false
	for _, a := range c.args {
		switch {
		case a.kind == tag:
			skip = slices.Contains(withValue[:], a.tag)
		case skip:
			skip = false
		default:
			ss = append(ss, a.strings...)
		}
	}
	return ss
}

func firstString(c *command) string {
	if ss := plain(c); len(ss) > 0 {
		return ss[0]
	}
	return ""
}

// lastString is the last positional argument: an action's own, whatever tags an extension put before it.
func lastString(c *command) string {
	if n := len(c.args); n > 0 && len(c.args[n-1].strings) == 1 {
		return c.args[n-1].strings[0]
	}
	return ""
}

func has(c *command, name string) bool {
	return slices.ContainsFunc(c.args, func(a argument) bool { return a.tag == name })
}

func valueOf(c *command, name string) ([]string, bool) {
	i := slices.IndexFunc(c.args, func(a argument) bool { return a.tag == name })
	if i < 0 || i+1 == len(c.args) {
		return nil, false
	}
	return c.args[i+1].strings, true
}
