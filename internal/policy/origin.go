package policy

import (
	"fmt"
	"strings"
)

// Origin says where a forward is written. Its fields are those of JSON answers.
type Origin struct {
	// Source is the file, table or setting as the MTA's configuration names it:
	// "hash:/etc/aliases", "/home/alice/.forward", "recipient_bcc_maps
	// hash:/etc/postfix/bcc".
	Source string `json:"source"`
	// File and Line, from 1, are the text that says so: of an entry that goes over
	// several lines the first one. Line 0: nobody can say which line it is.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Key is what was found in a table.
	Key string `json:"key,omitempty"`
}

// String returns the source with its line, or with the key where there is no line.
func (o Origin) String() string {
	switch {
	case o.File != "" && o.Line > 0 && strings.HasSuffix(o.Source, o.File):
		return fmt.Sprintf("%s:%d", o.Source, o.Line)
	case o.File != "" && o.Line > 0:
		return fmt.Sprintf("%s, %s:%d", o.Source, o.File, o.Line)
	case o.Key != "":
		return fmt.Sprintf("%s, key %q", o.Source, o.Key)
	}
	return o.Source
}
