package sendmail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Undo takes out of sendmail.mc what Apply put in. Where the rest is what it was then, both files become again what Apply kept; where
// the site has changed it since, m4 makes sendmail.cf of the rest. What is there now is kept beside it under the time of now.
// Nothing is changed where nothing of ours is there. Sendmail must be restarted then.
func (in Installation) Undo(ctx context.Context, now time.Time) (Change, error) {
	mcPath := filepath.Join(filepath.Dir(in.cf()), "sendmail.mc")
	oldMc, err := os.ReadFile(mcPath)
	if errors.Is(err, fs.ErrNotExist) {
		return Change{}, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if err != nil {
		return Change{}, err
	}
	oldCf, err := os.ReadFile(in.cf())
	if err != nil {
		return Change{}, err
	}
	rest, err := withoutOurs(string(oldMc))
	if err != nil {
		return Change{}, fmt.Errorf("%s: %w", mcPath, err)
	}
	own := strings.Contains(string(oldMc), beginMark)
	if !own && !parseConf(string(oldCf)).ours() {
		return Change{}, nil
	}
	mc, cf, kept := oldMc, []byte(nil), false // if it isn't ours: taken out by hand, and sendmail.cf not made anew
	if own {
		mc, cf, kept = in.kept(mcPath, rest)
	}
	if !kept {
		if !mcInclude.Match(oldMc) {
			return Change{}, fmt.Errorf("%w: %s doesn't include cf.m4 by itself", ErrLayout, mcPath)
		}
		if cf, err = in.rebuild(ctx, filepath.Dir(mcPath), string(mc)); err != nil {
			return Change{}, err
		}
	}
	return in.replace(now, replacement{mcPath, oldMc, mc}, replacement{in.cf(), oldCf, cf})
}

// ours reports whether anything of Snippet is in the configuration.
func (c conf) ours() bool {
	_, filter := c.filters["tlsonly"]
	return filter || c.sets["TlsonlyRcpt"]
}

// kept returns the newest copies from before our lines came, if sendmail.mc was then what it is now without them.
func (in Installation) kept(mcPath, rest string) (mc, cf []byte, ok bool) {
	copies, err := filepath.Glob(mcPath + ".[0-9]*Z")
	if err != nil {
		return []byte(rest), nil, false
	}
	slices.Sort(copies) // by time
	for _, path := range slices.Backward(copies) {
		text, err := os.ReadFile(path)
		if err != nil || strings.Contains(string(text), beginMark) {
			continue
		}
		plain, err := withoutOurs(string(text))
		if err != nil || plain != rest {
			break // the site has changed it since
		}
		cf, err := os.ReadFile(in.cf() + strings.TrimPrefix(path, mcPath))
		return text, cf, err == nil && !parseConf(string(cf)).ours()
	}
	return []byte(rest), nil, false
}

// rebuild has m4 make sendmail.cf without us, and Sendmail read it.
func (in Installation) rebuild(ctx context.Context, dir, mc string) ([]byte, error) {
	text, cf, remove, err := in.m4(ctx, dir, mc)
	if err != nil {
		return nil, err
	}
	defer remove()
	if parseConf(string(text)).ours() {
		return nil, errors.New("the filter or the rules are in sendmail.mc outside of our lines, too: take them out by hand")
	}
	if _, err := in.testRcpt(ctx, cf, nil); err != nil {
		return nil, fmt.Errorf("the new sendmail.cf: %w", err)
	}
	return text, nil
}

// replacement is what a file is to become.
type replacement struct {
	path     string
	old, new []byte
}

// replace writes what has changed, a copy of what was there first.
func (in Installation) replace(now time.Time, files ...replacement) (Change, error) {
	var done Change
	for _, f := range files {
		if bytes.Equal(f.old, f.new) {
			continue
		}
		backup := f.path + "." + now.UTC().Format("20060102T150405Z")
		if err := writeLike(backup, f.path, f.old); err != nil {
			return done, fmt.Errorf("backup: %w", err)
		}
		done.Backups = append(done.Backups, backup)
		if err := writeLike(f.path, f.path, f.new); err != nil {
			return done, err
		}
		done.Written = append(done.Written, f.path)
	}
	return done, nil
}
