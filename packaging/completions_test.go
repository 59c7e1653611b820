package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The completions are made from what the program's help says, by this test when UPDATE=1 is set, and are as they would be made
// now.
func TestCompletions(t *testing.T) {
	commands := help(t)
	for name, made := range map[string]string{
		"completions/tlsonly.bash": bash(commands),
		"completions/tlsonly.zsh":  zsh(commands),
		"completions/tlsonly.fish": fish(commands),
	} {
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(name, []byte(made), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if is := read(t, name); is != made {
			t.Errorf("%s isn't what the program's help asks for: UPDATE=1 go test -run Completions ./packaging", name)
		}
	}
}

// The shells take them; bash, which is everywhere, also completes with them.
func TestCompletionsRun(t *testing.T) {
	const ask = `. completions/tlsonly.bash; COMP_WORDS=($0 "$@"); COMP_CWORD=$#; _tlsonly; printf '%s ' "${COMPREPLY[@]}"`
	for _, c := range []struct{ line, want string }{
		{"ver", "version "}, {"check --js", "--json "}, {"lint --", "--json "}, {"setup p", "postfix "}, {"domains hi", "history "},
	} {
		words := append([]string{"-c", ask, "tlsonly"}, strings.Fields(c.line)...)
		if got := run(t, "bash", words...); got != c.want {
			t.Errorf("tlsonly %s: %q, want %q", c.line, got, c.want)
		}
	}
	for _, shell := range []string{"zsh", "fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s isn't installed", shell)
			continue
		}
		run(t, shell, "-n", "completions/tlsonly."+shell)
	}
}

// words are what can stand for the arguments of a command.
func words(command string) []string {
	switch command {
	case "domains":
		return []string{"list", "show", "history", "pin", "unpin"}
	case "keys":
		return []string{"list", "show", "add", "fetch", "trust", "forget"}
	case "classes":
		return []string{"list", "release"}
	case "setup", "doctor":
		return []string{"postfix", "sendmail"}
	}
	return nil
}

// files says whether the arguments of a command are files.
func files(command string) bool { return command == "report" || command == "received" }

// values are the words that a flag's value can be, and whether it is a file or a directory.
func values(f flagHelp) (fixed []string, path bool) {
	switch f.value {
	case "METHOD":
		return []string{"openpgp", "smime"}, false
	case "LEVEL":
		return []string{"none", "may", "encrypt", "secure", "dane"}, false
	case "VERSION":
		return []string{"1.0", "1.1", "1.2", "1.3"}, false
	case "FILE", "DIR":
		return nil, true
	}
	return nil, false
}

func names(commands []commandHelp) []string {
	var all []string
	for _, c := range commands {
		all = append(all, c.name)
	}
	return all
}

const made = "# Made from the program's help by completions_test.go.\n"

func bash(commands []commandHelp) string {
	var b strings.Builder
	b.WriteString(made + `_tlsonly() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
`)
	fmt.Fprintf(&b, "\t\tCOMPREPLY=($(compgen -W '%s' -- \"$word\"))\n\t\treturn\n\tfi\n\tcase $command:$before in\n",
		strings.Join(names(commands), " "))
	for _, c := range commands {
		for _, f := range c.flags {
			switch fixed, path := values(f); {
			case path:
				fmt.Fprintf(&b, "\t%s:%s) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", c.name, f.name)
			case f.value != "":
				fmt.Fprintf(&b, "\t%s:%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")); return ;;\n", c.name, f.name, strings.Join(fixed, " "))
			}
		}
	}
	b.WriteString("\tesac\n\tcase $command in\n")
	for _, c := range commands {
		list := words(c.name)
		for _, f := range c.flags {
			list = append(list, f.name)
		}
		fmt.Fprintf(&b, "\t%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")) ;;\n", c.name, strings.Join(list, " "))
	}
	b.WriteString("\tesac\n}\ncomplete -o default -F _tlsonly tlsonly\n")
	return b.String()
}

func zsh(commands []commandHelp) string {
	quote := strings.NewReplacer("'", `'\''`, ":", `\:`, "[", `\[`, "]", `\]`).Replace
	var b strings.Builder
	b.WriteString("#compdef tlsonly\n" + made + "if (( CURRENT == 2 )); then\n\tlocal -a commands=(\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "\t\t'%s:%s'\n", c.name, quote(c.summary))
	}
	b.WriteString("\t)\n\t_describe command commands\n\treturn\nfi\n" +
		"local command=$words[2]\nshift words\n(( CURRENT-- ))\ncase $command in\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "%s)\n\t_arguments", c.name)
		for _, f := range c.flags {
			value := ""
			switch fixed, path := values(f); {
			case path:
				value = ":" + strings.ToLower(f.value) + ":_files"
			case f.value != "":
				value = ":" + strings.ToLower(f.value) + ":(" + strings.Join(fixed, " ") + ")"
			}
			fmt.Fprintf(&b, " \\\n\t\t'%s[%s]%s'", f.name, quote(f.usage), value)
		}
		switch {
		case words(c.name) != nil:
			fmt.Fprintf(&b, " \\\n\t\t'*:argument:(%s)'", strings.Join(words(c.name), " "))
		case files(c.name):
			b.WriteString(" \\\n\t\t'*:file:_files'")
		}
		b.WriteString("\n\t;;\n")
	}
	b.WriteString("esac\n")
	return b.String()
}

func fish(commands []commandHelp) string {
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace
	var b strings.Builder
	b.WriteString(made + "complete -c tlsonly -f\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "complete -c tlsonly -n __fish_use_subcommand -a %s -d '%s'\n", c.name, quote(c.summary))
		in := "complete -c tlsonly -n '__fish_seen_subcommand_from " + c.name + "'"
		for _, f := range c.flags {
			line := in
			if short, ok := strings.CutPrefix(f.name, "--"); ok {
				line += " -l " + short
			} else {
				line += " -s " + f.name[1:]
			}
			switch fixed, path := values(f); {
			case path:
				line += " -r -F"
			case fixed != nil:
				line += " -x -a '" + strings.Join(fixed, " ") + "'"
			case f.value != "":
				line += " -x"
			}
			fmt.Fprintf(&b, "%s -d '%s'\n", line, quote(f.usage))
		}
		if list := words(c.name); list != nil {
			fmt.Fprintf(&b, "%s -a '%s'\n", in, strings.Join(list, " "))
		}
		if files(c.name) {
			fmt.Fprintf(&b, "%s -F\n", in)
		}
	}
	return b.String()
}
