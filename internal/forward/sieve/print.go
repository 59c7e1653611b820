package sieve

import (
	"fmt"
	"strings"
)

type printer struct{ b strings.Builder }

func (p *printer) commands(cs []*command, indent string) {
	for _, c := range cs {
		p.b.WriteString(indent)
		p.invocation(c)
		if !c.braces {
			p.b.WriteString(";\n")
			continue
		}
		p.b.WriteString(" {\n")
		p.commands(c.block, indent+"\t")
		p.b.WriteString(indent + "}\n")
	}
}

func (p *printer) invocation(c *command) {
	p.b.WriteString(c.name)
	for _, a := range c.args {
		p.b.WriteByte(' ')
		switch a.kind {
		case tag:
			p.b.WriteString(":" + a.tag)
		case number:
			fmt.Fprint(&p.b, a.number)
		case text:
			p.quote(a.strings[0])
		default:
			p.b.WriteByte('[')
			for i, s := range a.strings {
				if i > 0 {
					p.b.WriteString(", ")
				}
				p.quote(s)
			}
			p.b.WriteByte(']')
		}
	}
	switch len(c.tests) {
	case 0:
	case 1:
		p.b.WriteString(" (")
		p.invocation(c.tests[0])
		p.b.WriteByte(')')
	default:
		for i, t := range c.tests {
			p.b.WriteString([]string{" (", ", "}[min(i, 1)])
			p.invocation(t)
		}
		p.b.WriteByte(')')
	}
}

func (p *printer) quote(s string) {
	p.b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`)
}
