// Package keyfile reads the files in which an administrator puts other
// people's keys and certificates, and says what is wrong with them.
package keyfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxSize is the size, in octets, up to which a file is read: some ten thousand
// keys.
const MaxSize = 64 << 20

// Problem is what is wrong with a file, or with one key of it.
type Problem struct {
	File string
	Key  string // which one in the file; "" for the whole file
	Err  error
}

func (p Problem) Error() string {
	err := p.Err
	var path *fs.PathError
	if errors.As(err, &path) && path.Path == p.File {
		err = path.Err // it names the file again
	}
	if p.Key != "" {
		return fmt.Sprintf("%s: %s: %v", p.File, p.Key, err)
	}
	return fmt.Sprintf("%s: %v", p.File, err)
}

// Unwrap returns the cause.
func (p Problem) Unwrap() error { return p.Err }

// Each reads all files at these paths and calls f with each one's content. Of a
// folder it reads every file but those whose names begin with a dot or end in
// "~", in the order of their names. What couldn't be read is returned.
func Each(paths []string, f func(file string, text []byte)) []Problem {
	var problems []Problem
	for _, path := range paths {
		files, faults := list(path)
		problems = append(problems, faults...)
		for _, file := range files {
			text, err := read(file)
			if err != nil {
				problems = append(problems, Problem{File: file, Err: err})
				continue
			}
			f(file, text)
		}
	}
	return problems
}

// list returns the files at path, which has to be there.
func list(path string) (files []string, problems []Problem) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, []Problem{{File: path, Err: err}}
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		problems = append(problems, Problem{File: path, Err: err})
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		file := filepath.Join(path, name)
		info, err := os.Stat(file)
		switch {
		case errors.Is(err, fs.ErrNotExist) && entry.Type()&fs.ModeSymlink == 0: // gone since
		case err != nil:
			problems = append(problems, Problem{File: file, Err: err})
		case info.Mode().IsRegular():
			files = append(files, file)
		}
	}
	return files, problems
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(text) > MaxSize {
		err = fmt.Errorf("longer than %d octets", MaxSize)
	}
	return text, err
}
