package main

import (
	"os"
	"strings"
	"testing"
)

// lmtp is a program that takes mail by LMTP.
const lmtp = `#!/bin/sh
echo '220 here LMTP'
while read -r line; do
	case $line in
	DATA*)
		echo '354 go'
		while read -r text; do
			case $text in .?) break ;; esac
		done
		echo '250 2.0.0 taken'
		;;
	QUIT*)
		echo '221 2.0.0 bye'
		exit
		;;
	*) echo '250 2.0.0 yes' ;;
	esac
done
`

// takesLMTP has Sendmail deliver here by it.
func takesLMTP(dir string) []string {
	path := write(dir, "lmtp", lmtp)
	if err := os.Chmod(path, 0o755); err != nil {
		panic(err)
	}
	return []string{"FEATURE(`local_lmtp', `" + path + "')dnl", "MAILER(`local')dnl"}
}

// What Sendmail delivers here by a program that speaks LMTP doesn't leave: it
// isn't held, be it protected or a report.
func TestMTAHolesSendmailLMTP(t *testing.T) {
	isolated(t)
	w := newReportWire(t, sendmailCase{rules: ruleFor(`"@clinic.example", "@mta.test"`), mc: takesLMTP}, true)
	w.message(doctor, []string{"nobody@mta.test"}, nil)
	w.message("nobody@mta.test", []string{"u@refusing.example"}, nil)
	waitFor(t, "the message and the bounce to be taken", func() bool {
		w.anyRun()
		taken := 0
		for _, line := range w.sendmail.LogLines("mailer=local") {
			if strings.Contains(line, "stat=Sent") {
				taken++
			}
		}
		return taken == 2
	})
}
