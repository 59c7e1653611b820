package sieve

import "fmt"

// checkAll refuses what the grammar allows and RFC 5228 doesn't, where it would hide what a script does: an interpreter
// refuses the whole script then.
func checkAll(cs []*command, top bool) error {
	may := false // an elsif or else may follow
	begun := false
	for _, c := range cs {
		if err := checkOne(c, top && !begun, may); err != nil {
			return err
		}
		begun = begun || c.name != "require"
		may = c.name == "if" || c.name == "elsif"
		if err := checkAll(c.block, false); err != nil {
			return err
		}
	}
	return nil
}

func checkOne(c *command, first, afterIf bool) error {
	wrong := func(format string, args ...any) error {
		return &Error{Line: c.line, Text: c.name + ": " + fmt.Sprintf(format, args...)}
	}
	switch c.name {
	case "require":
		switch {
		case !first: // RFC 5228, section 3.2
			return wrong("not at the beginning of the script")
		case len(c.args) != 1 || c.args[0].strings == nil || len(c.tests) > 0 || c.braces:
			return wrong("want a list of strings")
		}
	case "if", "elsif":
		switch {
		case c.name == "elsif" && !afterIf:
			return wrong("no if before it")
		case len(c.args) > 0 || len(c.tests) != 1:
			return wrong("want one test")
		case !c.braces:
			return wrong("want a block")
		}
	case "else":
		switch {
		case !afterIf:
			return wrong("no if before it")
		case len(c.args) > 0 || len(c.tests) > 0 || !c.braces:
			return wrong("want a block")
		}
	case "redirect":
		if c.braces || len(c.tests) > 0 || len(plain(c)) != 1 || lastString(c) == "" {
			return wrong("want one address")
		}
	case "include":
		if c.braces || len(c.tests) > 0 || lastString(c) == "" {
			return wrong("want a script's name")
		}
	case "stop", "keep", "discard":
		if c.braces || len(c.tests) > 0 {
			return wrong("takes no block and no test")
		}
	}
	return nil
}
