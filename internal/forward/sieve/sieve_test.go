package sieve

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// show writes what was found in one line: LINE kind[?] target, with a mark for each flag.
func show(fs []Forward) string {
	var parts []string
	for _, f := range fs {
		s := fmt.Sprintf("%d %s", f.Line, f.Kind)
		for _, m := range []struct {
			on   bool
			mark string
		}{{f.Conditional, "?"}, {f.Copy, "+"}, {f.List, "@list"}, {f.Optional, "~"}, {f.Location == Global, "/g"}} {
			if m.on {
				s += m.mark
			}
		}
		switch {
		case f.Unresolved:
			s += " unresolved:" + f.Text
		case f.Kind == Redirect || f.Kind == Notify:
			s += " " + f.Address.String()
		default:
			s += " " + f.Text
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ; ")
}

func TestForwards(t *testing.T) {
	check := func(in, want string) {
		t.Helper()
		fs, err := Forwards([]byte(in))
		if got := show(fs); err != nil || got != want {
			t.Errorf("%s\n got %s, %v\nwant %s", in, got, err, want)
		}
	}
	check("", "")
	check("# nothing\n/* at\nall */ keep;", "")
	check(`redirect "A@x.example";`, "1 redirect A@x.example")
	check(`REDIRECT "a@x.example" ;`, "1 redirect a@x.example")
	check(`redirect"a@x.example";redirect "b@x.example";`, "1 redirect a@x.example ; 1 redirect b@x.example")
	check("require [\"copy\"];\nredirect :copy \"a@x.example\";", "2 redirect+ a@x.example")
	check(`require "copy"; redirect :COPY ["a@x.example"];`, "1 redirect+ a@x.example")
	check("redirect text:\r\na@x.example\r\n.\r\n;", "1 redirect a@x.example")
	check("redirect text: # comment\n..a@x.example\n.\n;", "1 redirect \".a\"@x.example")
	check(`redirect "\a\@x.example";`, "1 redirect a@x.example")
	check(`redirect "\"a b\"@x.example";`, `1 redirect "a b"@x.example`)
	check(`redirect "Name <a@x.example>";`, "1 redirect a@x.example")
	check(`redirect "joe";`, "1 redirect joe")
	check(`redirect "a@";`, "1 redirect unresolved:a@")
	check("if header :is \"subject\" \"x\" { redirect \"a@x.example\"; }\nelsif true { stop; } else { redirect \"b@x.example\"; }\nredirect \"c@x.example\";",
		"1 redirect? a@x.example ; 2 redirect? b@x.example ; 3 redirect? c@x.example")
	check(`if anyof (not true, allof(header "a" ["b", "c"], size :over 10K)) { if true { redirect "a@x.example"; } }`, "1 redirect? a@x.example")
	check(`if true { fileinto "x"; } redirect "a@x.example";`, "1 redirect a@x.example")
	check(`discard; stop; redirect "a@x.example";`, "1 redirect? a@x.example")
	check(`require "foreverypart"; foreverypart { redirect "a@x.example"; }`, "1 redirect? a@x.example")
	// RFC 6009, RFC 6134
	check(`redirect :notify "NEVER" :ret "HDRS" "a@x.example";`, "1 redirect a@x.example")
	check(`redirect :bytimerelative 600 :bymode "NOTIFY" :bytrace "a@x.example";`, "1 redirect a@x.example")
	check(`require "extlists"; redirect :list "tag:example.com,2009:team";`, "1 redirect@list unresolved:tag:example.com,2009:team")
	// RFC 5229
	check(`redirect "${x}@x.example";`, "1 redirect ${x}@x.example") // no require: a name like another
	check(`require "variables"; redirect "${x}@x.example";`, "1 redirect unresolved:${x}@x.example")
	check(`require "variables"; set "X" "a@x.example"; redirect "${x}";`, "1 redirect a@x.example")
	check(`require "variables"; set "d" "x.example"; redirect "a@${d}";`, "1 redirect a@x.example")
	check(`require "variables"; redirect "${x}"; set "x" "a@x.example";`, "1 redirect unresolved:${x}")
	check(`require "variables"; set "x" "a@x.example"; set "x" "b@x.example"; redirect "${x}";`, "1 redirect unresolved:${x}")
	check(`require "variables"; if true { set "x" "a@x.example"; } redirect "${x}";`, "1 redirect unresolved:${x}")
	check(`require "variables"; set :lower "x" "a@x.example"; redirect "${x}";`, "1 redirect unresolved:${x}")
	check(`require "variables"; set "x" "${y}"; redirect "${x}";`, "1 redirect unresolved:${x}")
	check(`require "variables"; redirect "${1}";`, "1 redirect unresolved:${1}")
	check(`require ["variables", "include"]; set "x" "a@x.example"; include "i"; redirect "${x}";`, "1 include i ; 1 redirect? unresolved:${x}")
	check(`require "variables"; redirect "${not a name}@x.example";`, `1 redirect "${not a name}"@x.example`)
	check(`require "variables"; redirect "$@x.example";`, "1 redirect $@x.example")
	check(`require "encoded-character"; redirect "a${hex:40}x.example";`, "1 redirect unresolved:a${hex:40}x.example")
	// RFC 6609
	check(`require "include"; include :personal "mine"; include :global :once :optional "site"; redirect "a@x.example";`,
		"1 include mine ; 1 include?~/g site ; 1 redirect? a@x.example")
	check(`require ["include", "variables"]; include "${x}";`, "1 include unresolved:${x}")
	check(`require "variables"; redirect "${`+strings.Repeat("x", 300)+`}";`, "1 redirect unresolved:${"+strings.Repeat("x", 300)+"}")
	// RFC 5435, RFC 5436
	check(`require "enotify"; notify :importance "1" :message "m" "mailto:a@x.example";`, "1 notify a@x.example")
	check(`require "enotify"; notify "MAILTO:a@x.example,b%40x.example?to=c@x.example&subject=s&Cc=d@x.example";`,
		"1 notify a@x.example ; 1 notify b@x.example ; 1 notify c@x.example ; 1 notify d@x.example")
	check(`require "enotify"; notify "mailto:a@x.example%2cb@x.example";`, "1 notify a@x.example ; 1 notify b@x.example")
	check(`require "enotify"; notify "mailto:?subject=x";`, "1 notify unresolved:mailto:?subject=x")
	check(`require "enotify"; notify "mailto:%zz";`, "1 notify unresolved:mailto:%zz")
	check(`require "enotify"; notify "xmpp:a@x.example";`, "")
	check(`require ["enotify", "variables"]; notify "mailto:${x}";`, "1 notify unresolved:mailto:${x}")
	check(`require "notify"; notify :method "mailto" :options ["a@x.example", "b"] :message "m";`, "1 notify a@x.example ; 1 notify b")
	check(`require "notify"; notify;`, "1 notify unresolved:")
	check(`report "abuse" "text" "a@x.example";`, "1 notify a@x.example")
	// What answers the sender, and what nobody knows.
	check(`require ["vacation", "reject"]; vacation :days 7 :addresses ["a@x.example"] "away"; reject "no";`, "")
	check(`require "vnd.dovecot.pipe"; pipe :copy "program" ["a"];`, "1 program+ program")
	check(`if execute "p" { keep; }`, "1 program p")
	check(`if not filter "p" { keep; }`, "1 program? p")
	check(`if true { forward "a@x.example"; }`, "1 unknown? forward")
	check(`keep; discard; fileinto "x"; setflag "\\Seen"; stop;`, "")
}

func TestErrors(t *testing.T) {
	bad := func(in string, line int, why string) {
		t.Helper()
		var e *Error
		if _, err := Parse([]byte(in)); !errors.As(err, &e) || e.Line != line || !strings.Contains(e.Text, why) {
			t.Errorf("%.80q: %v; want line %d: …%s…", in, err, line, why)
		}
	}
	bad("redirect", 1, "the end: want ; or {")
	bad("keep;\nredirect \"a\"", 2, "want ;")
	bad("redirect \"a;\n\n", 1, "string without end")
	bad("\nredirect text:\nabc\n", 2, "text: without end")
	bad("redirect text:\na\n.", 1, "text: without end")
	bad("redirect text: x\n.\n;", 1, "not followed by a new line")
	bad("/* x", 1, "comment without end")
	bad("keep }", 1, "want ; or {")
	bad("}", 1, "want a command")
	bad("if true { keep;", 1, "want a command or }")
	bad("if true keep;", 1, "want")
	bad("if (true { keep; }", 1, ", or )")
	bad("if () { keep; }", 1, "want a test")
	bad("if true, true { keep; }", 1, "want ; or {")
	bad("if { keep; }", 1, "one test")
	bad("if true;", 1, "want a block")
	bad("elsif true { keep; }", 1, "no if before it")
	bad("if true { } keep; else { }", 1, "no if before it")
	bad("else { keep; }", 1, "no if before it")
	bad("if true { } else true { }", 1, "want a block")
	bad("keep;\nrequire \"copy\";", 2, "not at the beginning")
	bad("if true { require \"copy\"; }", 1, "not at the beginning")
	bad("require 1;", 1, "list of strings")
	bad("redirect;", 1, "want one address")
	bad("redirect [\"a\", \"b\"];", 1, "want one address")
	bad("redirect \"a\" \"b\";", 1, "want one address")
	bad("redirect 1;", 1, "want one address")
	bad("redirect \"a\" { keep; }", 1, "want one address")
	bad("include;", 1, "script's name")
	bad("stop { }", 1, "no block")
	bad("keep [\"a\" \"b\"];", 1, ", or ]")
	bad("keep [\"a\", ];", 1, "want a string")
	bad("keep [1];", 1, "want a string")
	bad("keep 1X;", 1, "quantifier")
	bad("keep 1KB;", 1, "quantifier")
	bad("keep 99999999999999999999;", 1, "too large")
	bad("keep 99999999999999999G;", 1, "too large")
	bad("keep : copy;", 1, "colon without a name")
	bad("keep :1;", 1, "colon without a name")
	bad("\n\nkeep é;", 3, "character 'é'")
	bad("keep \"a\x00\";", 1, "NUL")
	bad("keep \"\xff\";", 1, "UTF-8")
	bad(strings.Repeat("if true {", 40)+strings.Repeat("}", 40), 1, "inside each other")
	bad("if "+strings.Repeat("not ", 40)+"true { }", 1, "inside each other")
	bad(strings.Repeat(" ", maxScript+1), 1, "longer than")
	if err := (&Error{Line: 3, Text: "x"}).Error(); err != "line 3: x" {
		t.Error(err)
	}
}

// RFC 5228, section 2.10.5, asks for 15 nested blocks and 15 nested test lists.
func TestDepth(t *testing.T) {
	in := strings.Repeat("if true {", 15) + "if " + strings.Repeat("not ", 14) + `true { redirect "a@x.example"; }` + strings.Repeat("}", 15)
	if fs, err := Forwards([]byte(in)); err != nil || len(fs) != 1 {
		t.Error(fs, err)
	}
}

func TestLarge(t *testing.T) {
	in := strings.Repeat("redirect \"a@x.example\";\n", maxScript/24)
	start := time.Now()
	if fs, err := Forwards([]byte(in)); err != nil || len(fs) != maxScript/24 {
		t.Error(len(fs), err)
	}
	half := strings.Repeat("x", maxScript/3)
	for _, in := range []string{
		`require "variables"; redirect "` + strings.Repeat("${", maxScript/3) + `}";`,
		`require "variables"; set "x" "` + half + `"; redirect "` + strings.Repeat("${x}", len(half)/4) + `";`,
		`require "variables"; set "x" "` + half[:4000] + `"; redirect "` + strings.Repeat("${x}", len(half)/4) + `";`,
	} {
		if fs, err := Forwards([]byte(in)); err != nil || len(fs) != 1 || !fs[0].Unresolved {
			t.Errorf("%.60q: %d forwards, %v", in, len(fs), err)
		}
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Error("took", took)
	}
}

// FuzzParse: what is printed is parsed again to the same, with the same forwards, and lines lie in the script.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`redirect :copy "a@x.example";`, "if anyof(true, not size :over 1K) { keep; } elsif true { } else { stop; }", "redirect text:\n..a\n.\n;",
		`require ["variables", "enotify"]; set "x" "a@b"; redirect "${x}"; notify "mailto:a?to=b";`, "/* */ # x\nkeep [\"a\", \"b\\\"\"] :t 5 (a, b (c));",
		`require "include"; include :global "x";`, "pipe [\"a\"];", "keep [];"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		lines := strings.Count(string(in), "\n") + 1
		s, err := Parse(in)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Line < 1 || e.Line > lines {
				t.Fatalf("%q: %v", in, err)
			}
			return
		}
		printed := s.String()
		again, err := Parse([]byte(printed))
		if err != nil {
			t.Fatalf("%q is printed %q: %v", in, printed, err)
		}
		if again.String() != printed {
			t.Errorf("%q is printed %q, then %q", in, printed, again)
		}
		a, b := s.Forwards(), again.Forwards()
		for i := range a {
			if a[i].Line < 1 || a[i].Line > lines {
				t.Errorf("%q: line %d", in, a[i].Line)
			}
			if i < len(b) {
				b[i].Line = a[i].Line
			}
		}
		if show(a) != show(b) {
			t.Errorf("%q: %s, printed %s", in, show(a), show(b))
		}
	})
}
