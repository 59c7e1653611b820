package virtual

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
)

// maxLine bounds a line of a source. makemap's own buffer is smaller; what it would leave out is taken here, rather than unseen.
const maxLine = 64 << 10

// physical goes through the lines of r, and ends with an error where there is one.
func physical(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		in := bufio.NewReaderSize(r, maxLine)
		for {
			s, err := in.ReadSlice('\n')
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
				yield("", fmt.Errorf("longer than %d octets", maxLine))
				return
			case err != nil && !errors.Is(err, io.EOF):
				yield("", err)
				return
			}
			if len(s) > 0 && !yield(string(s), nil) || err != nil {
				return
			}
		}
	}
}
