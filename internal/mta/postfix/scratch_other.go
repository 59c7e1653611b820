//go:build !linux

package postfix

import (
	"os"
)

// scratch returns an empty file without a name.
func scratch(name string) (*os.File, error) {
	f, err := os.CreateTemp("", name+"-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
