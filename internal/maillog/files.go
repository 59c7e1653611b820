package maillog

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// File is a log to read.
type File struct {
	Name  string
	First time.Time // of its first line that has a time; zero: it has none

	modTime time.Time
	stdin   *bufio.Reader
}

// Order looks at the beginnings of files, "-" being stdin, and puts them in the order of time: rotated logs come in
// any order. The stamps' zone is that of Config, and year is its Year, 0 for none.
func Order(names []string, stdin io.Reader, zone *time.Location, year int) ([]File, error) {
	files := make([]File, 0, len(names))
	for _, name := range names {
		f := File{Name: name, modTime: time.Now()}
		if name == "-" {
			in := bufio.NewReaderSize(stdin, lineSize)
			f.Name, f.stdin = "standard input", in
			plain, err := unpacked(in)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", f.Name, err)
			}
			f.stdin = bufio.NewReaderSize(plain, lineSize)
			f.First = firstTime(f.stdin, clock{zone: zone, year: year, last: f.modTime})
		} else if err := f.stat(zone, year); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	begin := func(f File) time.Time {
		if f.First.IsZero() {
			return f.modTime
		}
		return f.First
	}
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(begin(a).Compare(begin(b)), a.modTime.Compare(b.modTime))
	})
	return files, nil
}

// stat finds a file's times.
func (f *File) stat(zone *time.Location, year int) error {
	in, err := os.Open(f.Name)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fmt.Errorf("read %s: a directory", f.Name)
	}
	f.modTime = info.ModTime()
	plain, err := unpacked(bufio.NewReader(in))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name, err)
	}
	f.First = firstTime(bufio.NewReaderSize(plain, lineSize), clock{zone: zone, year: year, last: f.modTime})
	return nil
}

// ReadFile has r read a file to its end.
func (r *Reader) ReadFile(ctx context.Context, f File) (Stats, error) {
	source := Source{Name: f.Name, ModTime: f.modTime, Lines: f.stdin}
	if f.stdin == nil {
		in, err := os.Open(f.Name)
		if err != nil {
			return Stats{}, err
		}
		defer in.Close()
		if source.Lines, err = unpacked(bufio.NewReaderSize(in, lineSize)); err != nil {
			return Stats{}, fmt.Errorf("read %s: %w", f.Name, err)
		}
	}
	return r.Read(ctx, source)
}

// unpacked undoes what logrotate does to old logs; it goes by the first bytes, not by the name.
func unpacked(in *bufio.Reader) (io.Reader, error) {
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(in), nil
	case bytes.Equal(magic, []byte("\xfd7zX")), bytes.Equal(magic, []byte("\x28\xb5\x2f\xfd")):
		return nil, fmt.Errorf("packed by xz or zstd: unpack it to standard input (xz -dc FILE | … -)")
	}
	return in, nil
}

// firstTime finds the time of the first line that has one, among those in the buffer.
func firstTime(in *bufio.Reader, c clock) time.Time {
	head, _ := in.Peek(64 << 10)
	e := entries{in: bufio.NewReaderSize(bytes.NewReader(head), len(head)+16)}
	for e.next() == nil {
		if e.ok && e.h.stamp != nil && c.see(e.h.stamp) {
			if t, ok := c.time(e.h.stamp); ok {
				return t
			}
		}
	}
	return time.Time{}
}
