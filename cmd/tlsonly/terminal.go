package main

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// Colours, for terminals only.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colours s where that makes sense; NO_COLOR (no-color.org) turns it off.
func paint(on bool, colour, s string) string {
	if !on || os.Getenv("NO_COLOR") != "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// progress is a line "12 of 100" on a terminal that stays below what is printed.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	done  int
	total int
	on    bool
}

func newProgress(w io.Writer, total int, on bool) *progress {
	p := &progress{w: w, total: total, on: on}
	p.pause(func() {})
	return p
}

// step counts one more.
func (p *progress) step() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.show()
}

// set says how far it has come, of how many.
func (p *progress) set(done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.total = done, total
	p.wipe()
	p.show()
}

// pause takes the line away, lets f print, and shows it again.
func (p *progress) pause(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	f()
	p.show()
}

// clear takes the line away for good.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	p.on = false
}

func (p *progress) show() {
	if p.on {
		fmt.Fprintf(p.w, "\r%d of %d", p.done, p.total)
	}
}

func (p *progress) wipe() {
	if p.on {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
