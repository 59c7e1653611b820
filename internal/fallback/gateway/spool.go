package gateway

import (
	"bufio"
	"errors"
	"io"
	"os"
)

// spool is a file without a name: it goes with the process, however that ends.
type spool struct {
	file *os.File
	w    *bufio.Writer
	size int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, spoolPattern) // mode 0600
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spool{file: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

// Write adds octets.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.size += int64(n)
	return n, err
}

// reader returns all that was written, from its beginning. Several can read at
// the same time, once nothing is written any more and flush has returned.
func (s *spool) reader() io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(s.file, 0, s.size), 64<<10)
}

func (s *spool) flush() error { return s.w.Flush() }

func (s *spool) Close() error { return s.file.Close() }
