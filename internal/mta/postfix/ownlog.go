package postfix

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// With maillog_file Postfix writes its log itself: each process sends its lines
// to postlogd(8), and waits while that one's socket is full. So does postlogd
// when it starts: it reads main.cf, and tells of each value that is set a second
// time. If others have filled the socket with the same before, it waits for
// itself, and all of Postfix for it: no mail is taken until somebody kills it.

// maxQueue is what a socket takes before its senders wait: unix(7). systemd
// makes more of it; in a container it is the kernel's 10.
const maxQueue = "/proc/sys/net/unix/max_dgram_qlen"

// startLines is how many processes write what they find in main.cf before
// postlogd reads any of it, when Postfix starts or reloads: postsuper, master,
// qmgr, pickup and postlogd.
const startLines = 5

// logBlocks returns what main.cf sets anew, "smtp_tls_loglevel (line 12)" for
// one, if a reload or a start may make Postfix wait for its own log.
func (f Facts) logBlocks(room int) []string {
	if f.value("maillog_file") == "" {
		return nil
	}
	var repeated []string
	for _, w := range f.Warnings {
		head, entry, ok := strings.Cut(w, ": overriding earlier entry: ")
		if !ok || !strings.Contains(head, "/"+mainFile) {
			continue
		}
		name, _, _ := strings.Cut(entry, "=")
		_, line, _ := strings.Cut(head, ", line ")
		repeated = append(repeated, fmt.Sprintf("%s (line %s)", strings.TrimSpace(name), line))
	}
	if len(repeated)*startLines < room {
		return nil
	}
	return repeated
}

// socketRoom is how many messages a socket of this host takes.
func socketRoom() int {
	text, err := os.ReadFile(maxQueue)
	if n, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
		return n
	}
	return 10
}

// Renewable reports, as an error, what keeps a reload or a start of Postfix from
// being safe. It is for one that is to be renewed.
func (f Facts) Renewable() error {
	repeated := f.logBlocks(socketRoom())
	if len(repeated) == 0 {
		return nil
	}
	return fmt.Errorf("%s sets again, with other values: %s; with maillog_file, a reload or a "+
		"start can make postfix wait for its own log for ever; remove the earlier lines: "+
		"postconf -n shows which values count", f.path(mainFile), strings.Join(repeated, ", "))
}

// logged looks whether Postfix can wait for its own log.
func (d *doctor) logged() {
	if repeated := d.logBlocks(socketRoom()); len(repeated) > 0 {
		d.warn("log-blocks", inMain("maillog_file"),
			"remove the earlier lines from "+d.path(mainFile)+"; or log to syslog: postconf -X maillog_file",
			"main.cf sets these twice with different values: %s; each process logs that when it starts, and "+
				"then postlogd can wait for itself, and no mail is accepted", strings.Join(repeated, ", "))
	}
}
