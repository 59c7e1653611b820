package maillog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Limits of an entry that has several lines.
const (
	maxEntryLines  = 1000
	maxEntryOctets = 1 << 20
)

// entries gives the lines of a source one after the other, and those that belong
// together as one. The last one's header is h.
type entries struct {
	in *bufio.Reader
	h  header
	ok bool // h was read

	line  []byte // as it is in the log; of several, all of them as they fit
	lines int64  // how many those are
	bytes int64
	long  bool   // the line is longer than lineSize, and line its beginning
	kept  []byte // the lines of an entry
	front []byte // of a long line
}

// next reads the next entry. The error is io.EOF at the end.
func (e *entries) next() error {
	e.lines, e.bytes = 0, 0
	line, err := e.read()
	if err != nil {
		return err
	}
	e.line, e.ok = line, false
	switch {
	case e.long:
		return nil
	case string(line) == "{":
		return e.pretty()
	case len(line) > 0 && line[0] == '_' &&
		(bytes.HasPrefix(line, []byte("__CURSOR=")) || bytes.HasPrefix(line, []byte("__REALTIME_TIMESTAMP="))):
		return e.export()
	case bytes.HasSuffix(line, []byte("]")) && bytes.Contains(line, []byte(" [s=")) && stampEnd(line) > 0:
		return e.verbose()
	}
	e.ok = e.h.split(line)
	return nil
}

// read reads a line, without its end.
func (e *entries) read() ([]byte, error) {
	line, err := e.in.ReadSlice('\n')
	e.bytes += int64(len(line))
	e.long = false
	if errors.Is(err, bufio.ErrBufferFull) {
		e.long = true
		e.front = append(e.front[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = e.in.ReadSlice('\n')
			e.bytes += int64(len(line))
		}
		line = e.front
	}
	if len(line) == 0 && err != nil {
		return nil, err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	e.lines++
	return bytes.TrimRight(line, "\r\n"), nil
}

// more reads a line of an entry and keeps it. It is false at the end of the log, and
// where the entry is longer than any that is one.
func (e *entries) more() ([]byte, bool, error) {
	if e.lines >= maxEntryLines || len(e.kept) > maxEntryOctets {
		return nil, false, nil
	}
	line, err := e.read()
	if errors.Is(err, io.EOF) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	start := len(e.kept)
	e.kept = append(append(e.kept, line...), '\n')
	if e.long {
		e.long = false
		return nil, false, nil
	}
	return e.kept[start : len(e.kept)-1], true, nil
}

// nextIs reports whether the next line begins with one of these.
func (e *entries) nextIs(octets string) bool {
	next, _ := e.in.Peek(1)
	return len(next) == 1 && strings.IndexByte(octets, next[0]) >= 0
}

// begin keeps the first line of an entry of several lines.
func (e *entries) begin() []byte {
	e.kept = append(append(make([]byte, 0, 2048), e.line...), '\n')
	return e.kept[:len(e.kept)-1]
}

// pretty reads an object over several lines: journalctl -o json-pretty.
func (e *entries) pretty() error {
	e.begin()
	for e.nextIs("\t }") {
		line, ok, err := e.more()
		e.line = e.kept
		if err != nil || !ok {
			return err
		}
		if string(line) == "}" {
			e.h.clear()
			e.ok = e.h.json(e.kept, 0)
			return nil
		}
	}
	return nil
}

// verbose reads a line with a time, and indented ones after it: journalctl -o verbose.
func (e *entries) verbose() error {
	first := e.begin()
	entry := map[string]string{"timestamp": string(first[:stampEnd(first)])}
	for e.nextIs(" ") {
		line, ok, err := e.more()
		if err != nil || !ok {
			e.line = e.kept
			return err
		}
		addField(entry, bytes.TrimLeft(line, " "))
	}
	e.line = e.kept
	e.h.clear()
	e.ok = e.h.entry(entry, 0)
	e.h.form = FormVerbose
	return nil
}

// export reads lines up to an empty one: journalctl -o export. A field whose text
// isn't printable has its length before it, in eight octets, the least first.
func (e *entries) export() error {
	entry := map[string]string{}
	addField(entry, e.begin())
	for {
		line, ok, err := e.more()
		if err != nil {
			return err
		}
		if !ok || len(line) == 0 {
			break
		}
		if bytes.IndexByte(line, '=') >= 0 {
			addField(entry, line)
			continue
		}
		if len(bytes.Trim(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")) > 0 {
			break // no field's name
		}
		name := strings.ToLower(string(line))
		value, err := e.sized()
		if err != nil {
			return err
		}
		entry[name] = string(value)
		e.kept = append(append(e.kept, value...), '\n')
	}
	e.line = e.kept
	e.h.clear()
	e.ok = e.h.entry(entry, 0)
	e.h.form = FormExport
	return nil
}

// sized reads a length and as many octets. What is more than an entry may have is
// passed over.
func (e *entries) sized() ([]byte, error) {
	var size [8]byte
	n, err := io.ReadFull(e.in, size[:])
	e.bytes += int64(n)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil // the log was cut
		}
		return nil, err
	}
	length := binary.LittleEndian.Uint64(size[:])
	if length > 1<<31 {
		return nil, nil // not what the format says; what follows is read as lines
	}
	take := min(length, lineSize)
	value := make([]byte, take)
	n, err = io.ReadFull(e.in, value)
	e.bytes += int64(n)
	value = value[:n]
	if err == nil {
		var rest int
		rest, err = e.in.Discard(int(length - take))
		e.bytes += int64(rest)
	}
	if err == nil {
		if e.nextIs("\n") {
			_, _ = e.in.Discard(1)
			e.bytes++
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return value, nil
}

// addField adds "NAME=value". Of a field that occurs twice the first counts.
func addField(entry map[string]string, line []byte) {
	name, value, ok := bytes.Cut(line, []byte("="))
	if !ok {
		return
	}
	key := strings.ToLower(string(name))
	if _, twice := entry[key]; !twice {
		entry[key] = string(value)
	}
}
