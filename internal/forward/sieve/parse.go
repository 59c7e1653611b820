package sieve

import "fmt"

const (
	maxScript = 1 << 20 // octets; Dovecot takes as many by default
	maxDepth  = 32      // blocks and tests inside each other; RFC 5228, section 2.10.5, asks for 15
)

// command is a command or a test (RFC 5228, section 8.2: both have the same arguments).
type command struct {
	name  string // folded
	args  []argument
	tests []*command
	block []*command
	// braces tells an empty block from none.
	braces bool
	line   int
}

// argument is a tag, a number, or one or more strings.
type argument struct {
	tag     string
	number  uint64
	strings []string
	kind    kind // tag, number, text, or '[' for a list
}

type parser struct {
	lex   lexer
	token token // the one being looked at
	depth int
}

func parse(script string) ([]*command, error) {
	if len(script) > maxScript {
		return nil, &Error{Line: 1, Text: fmt.Sprintf("script longer than %d octets", maxScript)}
	}
	p := parser{lex: lexer{s: script, line: 1}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	commands, err := p.commands()
	if err == nil && p.token.kind != end {
		err = p.unexpected("a command")
	}
	return commands, err
}

func (p *parser) advance() (err error) {
	p.token, err = p.lex.next()
	return err
}

func (p *parser) unexpected(want string) error {
	return &Error{Line: p.token.line, Text: fmt.Sprintf("%s: want %s", p.token, want)}
}

func (p *parser) expect(k kind, want string) error {
	if p.token.kind != k {
		return p.unexpected(want)
	}
	return p.advance()
}

func (p *parser) deeper() error {
	if p.depth++; p.depth > maxDepth {
		return &Error{Line: p.token.line, Text: fmt.Sprintf("more than %d blocks and tests inside each other", maxDepth)}
	}
	return nil
}

// commands = *command
func (p *parser) commands() ([]*command, error) {
	var cs []*command
	for p.token.kind == identifier {
		c, err := p.command()
		if err != nil {
			return nil, err
		}
		cs = append(cs, c)
	}
	return cs, nil
}

// command = identifier arguments (";" / block)
func (p *parser) command() (*command, error) {
	c, err := p.invocation()
	if err != nil {
		return nil, err
	}
	if p.token.kind != '{' {
		return c, p.expect(';', "; or {")
	}
	c.braces = true
	if err := p.deeper(); err != nil {
		return nil, err
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if c.block, err = p.commands(); err != nil {
		return nil, err
	}
	p.depth--
	return c, p.expect('}', "a command or }")
}

// invocation = identifier *argument [test / "(" test *("," test) ")"]
func (p *parser) invocation() (*command, error) {
	c := &command{name: p.token.text, line: p.token.line}
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	for {
		a, ok, err := p.argument()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		c.args = append(c.args, a)
	}
	switch p.token.kind {
	case identifier:
		t, err := p.invocation()
		c.tests = []*command{t}
		return c, err
	case '(':
		return c, p.testList(c)
	}
	return c, nil
}

// testList also takes a list of one test, where RFC 5228 has none: an interpreter that refuses it sends nothing.
func (p *parser) testList(c *command) error {
	for {
		if err := p.advance(); err != nil { // over "(" or ","
			return err
		}
		if p.token.kind != identifier {
			return p.unexpected("a test")
		}
		t, err := p.invocation()
		if err != nil {
			return err
		}
		c.tests = append(c.tests, t)
		if p.token.kind != ',' {
			return p.expect(')', ", or )")
		}
	}
}

// argument = string-list / number / tag
func (p *parser) argument() (a argument, ok bool, err error) {
	a.kind = p.token.kind
	switch a.kind {
	case tag:
		a.tag = p.token.text
	case number:
		a.number = p.token.number
	case text:
		a.strings = []string{p.token.text}
	case '[':
		a.strings, err = p.list()
		return a, true, err
	default:
		return a, false, nil
	}
	return a, true, p.advance()
}

// list = "[" string *("," string) "]"
func (p *parser) list() ([]string, error) {
	var ss []string
	for {
		if err := p.advance(); err != nil { // over "[" or ","
			return nil, err
		}
		if p.token.kind == ']' && ss == nil {
			return []string{}, p.advance() // not RFC 5228's, but Pigeonhole's and harmless
		}
		ss = append(ss, p.token.text)
		if err := p.expect(text, "a string"); err != nil {
			return nil, err
		}
		if p.token.kind != ',' {
			return ss, p.expect(']', ", or ]")
		}
	}
}
