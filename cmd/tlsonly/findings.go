package main

import (
	"cmp"
	"fmt"
	"strings"

	"tlsonly/internal/config"
	"tlsonly/internal/mta"
)

// finding makes one of doctor's findings.
func finding(level mta.Severity, code, where, remedy, format string, args ...any) mta.Finding {
	check, _ := mta.CheckOf(code) // a test looks that all are known
	return mta.Finding{Severity: level, Code: code, Where: strings.Join(strings.Fields(where), "_"), Check: check,
		Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

// accept marks the findings that the site has judged, and adds one for each
// acceptance without any.
func accept(found []mta.Finding, accepted []config.Acceptance) []mta.Finding {
	used := make([]bool, len(accepted))
	for i, f := range found {
		for n, a := range accepted {
			if f.Severity == mta.OK || a.Code != f.Code || a.Where != "" && a.Where != f.Where {
				continue
			}
			used[n] = true
			found[i].Severity, found[i].Reason = mta.Accepted, cmp.Or(found[i].Reason, a.Reason)
		}
	}
	for n, a := range accepted {
		if !used[n] {
			found = append(found, finding(mta.Warning, "accept-unused", a.String(), "remove it from [doctor] accept",
				"[doctor] accept names %s, but there is no such finding now", a))
		}
	}
	return found
}

// mostAlike is how many findings of one kind in one file are shown.
const mostAlike = 20

// capped leaves out findings of one code, level and file after the first ones,
// and says how many: a table may have any number of lines that are alike.
func capped(found []mta.Finding) []mta.Finding {
	type kind struct {
		level      mta.Severity
		code, file string
	}
	of := func(f mta.Finding) kind {
		file := f.Where
		if i := strings.LastIndexByte(file, ':'); i >= 0 && strings.Trim(file[i+1:], "0123456789") == "" {
			file = file[:i]
		}
		return kind{f.Severity, f.Code, file}
	}
	count := make(map[kind]int)
	for _, f := range found {
		count[of(f)]++
	}
	var kept []mta.Finding
	shown := make(map[kind]int)
	for _, f := range found {
		k := of(f)
		if shown[k]++; shown[k] <= mostAlike {
			kept = append(kept, f)
		}
		if more := count[k] - mostAlike; shown[k] == mostAlike && more > 0 {
			last := f
			last.Where, last.Reason = k.file, f.Reason
			last.Text = fmt.Sprintf("and %d more like these", more)
			kept = append(kept, last)
		}
	}
	return kept
}

// printFindings shows one finding a line, and what to do about it below.
func (p *program) printFindings(found []mta.Finding) {
	colours := map[mta.Severity]string{mta.OK: green, mta.Accepted: green, mta.Warning: yellow, mta.Broken: red, mta.Down: red, mta.Hole: red}
	for _, f := range found {
		where := ""
		if f.Where != "" {
			where = "  " + f.Where
		}
		fmt.Fprintf(p.stdout, "%s  %s%s: %s\n", paint(terminal(p.stdout), colours[f.Severity], fmt.Sprintf("%-11s", f.Severity)), cmp.Or(f.Code, f.Check), where, oneLine(f.Text))
		switch {
		case f.Severity == mta.Accepted:
			fmt.Fprintf(p.stdout, "             accepted: %s\n", oneLine(f.Reason))
		case f.Remedy != "" && f.Severity != mta.OK:
			fmt.Fprintf(p.stdout, "             -> %s\n", oneLine(f.Remedy))
		}
	}
	count := countLevels(found)
	fmt.Fprintf(p.stdout, "%d ok, %s, %s", count[mta.OK], plural(count[mta.Warning], "warning"), plural(count[mta.Hole], "hole"))
	for _, level := range []mta.Severity{mta.Broken, mta.Down, mta.Accepted} {
		if n := count[level]; n > 0 {
			fmt.Fprintf(p.stdout, ", %d %s", n, level)
		}
	}
	fmt.Fprintln(p.stdout)
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", " ") }

func countLevels(found []mta.Finding) map[mta.Severity]int {
	count := make(map[mta.Severity]int)
	for _, f := range found {
		count[f.Severity]++
	}
	return count
}

// Exit statuses of monitoring plugins (Monitoring Plugins Development
// Guidelines).
const (
	nagiosOK = iota
	nagiosWarning
	nagiosCritical
	nagiosUnknown
)

// nagios answers in one line, with performance data, and returns the status.
// What leaks or stops counts for more than what could not be found out.
func (p *program) nagios(found []mta.Finding, err error) int {
	count := countLevels(found)
	status, word := nagiosOK, "OK"
	switch {
	case mta.Fails(found):
		status, word = nagiosCritical, "CRITICAL"
	case err != nil:
		status, word = nagiosUnknown, "UNKNOWN"
	case count[mta.Warning] > 0:
		status, word = nagiosWarning, "WARNING"
	}
	text := fmt.Sprintf("%s, %d broken, %d not running, %s", plural(count[mta.Hole], "hole"), count[mta.Broken], count[mta.Down],
		plural(count[mta.Warning], "warning"))
	if status == nagiosUnknown {
		text = err.Error()
	} else if worst, ok := worstOf(found); ok {
		text += ": " + strings.TrimSpace(worst.Code+" "+worst.Where) + ": " + worst.Text
	}
	// A bar would begin the performance data.
	text = strings.ReplaceAll(oneLine(text), "|", "/")
	fmt.Fprintf(p.stdout, "TLSONLY %s - %s | holes=%d;;0;0 broken=%d;;0;0 down=%d;;0;0 warnings=%d;0;;0 accepted=%d;;;0 ok=%d;;;0\n", word, text,
		count[mta.Hole], count[mta.Broken], count[mta.Down], count[mta.Warning], count[mta.Accepted], count[mta.OK])
	return status
}

// worstOf returns the first finding of the highest level above accepted.
func worstOf(found []mta.Finding) (mta.Finding, bool) {
	for _, level := range []mta.Severity{mta.Hole, mta.Down, mta.Broken, mta.Warning} {
		for _, f := range found {
			if f.Severity == level {
				return f, true
			}
		}
	}
	return mta.Finding{}, false
}
