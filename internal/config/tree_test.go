package config

import (
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// complete reports the first key or element of what was decoded that the scan didn't find.
func complete(decoded any, n *node, path string) string {
	if n == nil {
		return path
	}
	switch x := decoded.(type) {
	case map[string]any:
		for k, e := range x {
			if missing := complete(e, n.key(k), path+"."+k); missing != "" {
				return missing
			}
		}
	case []map[string]any:
		for i, e := range x {
			if missing := complete(e, n.elem(i), path+"[]"); missing != "" {
				return missing
			}
		}
	case []any:
		for i, e := range x {
			if missing := complete(e, n.elem(i), path+"[]"); missing != "" {
				return missing
			}
		}
	}
	return ""
}

// FuzzLines: whatever the library takes for TOML, the scan finds the same keys in it.
func FuzzLines(f *testing.F) {
	for _, folder := range []string{"bad", "good"} {
		for _, data := range files(f, folder) {
			f.Add(string(data))
		}
	}
	for _, s := range []string{
		"a.b.'c d'.\"e\\u0066\" = 1\n",
		"a = {b = 1, c.d = [1, {e = 2}], }\n[[f.g]]\n[f.g.h]\ni=1\n[[f.g]]\nj=1\n",
		"a = [ [1,2], # ]\n ['''x''', \"\"\"y\"\"\"\"\"]\n]\nb = 1979-05-27 07:32:00 # c\nd = +1e5",
		"\"\" = 1\n''.a = 2",
		"a = \"\"\"\\\n \\\" \"\" \"\"\"\nb = ''''x'''''\n c=1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := scanner{text: text, line: 1}
		root := s.scan()
		if s.line > strings.Count(text, "\n")+1 {
			t.Errorf("line %d", s.line)
		}
		var decoded map[string]any
		if _, err := toml.Decode(text, &decoded); err != nil {
			return // and the scan has ended
		}
		if missing := complete(decoded, root, ""); missing != "" {
			t.Errorf("%s not found in\n%s", missing, text)
		}
	})
}
