package sendmail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"tlsonly/internal/mta"
)

// Directory returns where its configuration is.
func (in Installation) Directory() string { return filepath.Dir(in.cf()) }

// ErrLayout is that of an installation which Apply doesn't know its way about. The caller prints Snippet instead.
var ErrLayout = errors.New("not the layout of the Debian package")

// Change is what Apply did.
type Change struct {
	Written []string // files; none: all was as it should be
	Backups []string // of what was there before
}

// Apply puts the lines into /etc/mail/sendmail.mc, replacing an older version of them, and has m4 make sendmail.cf of it,
// as Debian's Makefile does. Nothing is replaced before the rules of the new sendmail.cf have been proved; what was there
// before is kept beside it under the time of now. Sendmail must be restarted then.
func (in Installation) Apply(ctx context.Context, s Settings, now time.Time) (Change, error) {
	if err := s.check(); err != nil {
		return Change{}, err
	}
	mcPath := filepath.Join(filepath.Dir(in.cf()), "sendmail.mc")
	oldMc, err := os.ReadFile(mcPath)
	if err != nil {
		return Change{}, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	oldCf, err := os.ReadFile(in.cf())
	if err != nil {
		return Change{}, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if !mcInclude.Match(oldMc) {
		return Change{}, fmt.Errorf("%w: %s doesn't include cf.m4 by itself", ErrLayout, mcPath)
	}
	mc, err := merge(string(oldMc), Snippet(s))
	if err != nil {
		return Change{}, fmt.Errorf("%s: %w", mcPath, err)
	}
	cf, err := in.build(ctx, filepath.Dir(mcPath), mc, s)
	if err != nil {
		return Change{}, err
	}
	if bytes.Equal(withoutComments(cf), withoutComments(oldCf)) {
		cf = oldCf
	}
	return in.replace(now, replacement{mcPath, oldMc, []byte(mc)}, replacement{in.cf(), oldCf, cf})
}

// mcInclude: m4 makes sendmail.cf of Debian's sendmail.mc alone; others must be
// given cf.m4 besides, from wherever it is.
var mcInclude = regexp.MustCompile("(?m)^[ \t]*include\\(`?[^)]*/cf/m4/cf\\.m4'?\\)")

// What a site may have of its own that would be there twice, which Sendmail reads as something else than either.
var rivals = regexp.MustCompile("(?m)^[ \t]*(LOCAL_TLS_RCPT\\b|(?:INPUT_)?MAIL_FILTER\\(`?tlsonly'?|SLocal_tls_rcpt\\b|Ktls_rcpt\\b|Ktls_report\\b|Ktls_read\\b)")

// merge puts the lines at the end of mc, in place of those of an earlier run.
func merge(mc, snippet string) (string, error) {
	text, err := withoutOurs(mc)
	if err != nil {
		return "", err
	}
	if found := rivals.FindStringSubmatch(text); found != nil {
		return "", fmt.Errorf("%s is already set outside of our lines: combine them by hand", strings.Trim(found[1], "(`'"))
	}
	return text + "\n" + snippet, nil
}

// withoutOurs returns mc without our lines.
func withoutOurs(mc string) (string, error) {
	var rest []string
	inside := false
	for line := range strings.SplitSeq(strings.TrimRight(mc, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, beginMark):
			if inside {
				return "", fmt.Errorf("two lines %q, and no %q between them", beginMark, endMark)
			}
			inside = true
		case strings.HasPrefix(line, endMark):
			if !inside {
				return "", fmt.Errorf("a line %q without %q", endMark, beginMark)
			}
			inside = false
		case !inside:
			rest = append(rest, line)
		}
	}
	if inside {
		return "", fmt.Errorf("a line %q without %q", beginMark, endMark)
	}
	return strings.TrimRight(strings.Join(rest, "\n"), "\n") + "\n", nil
}

// m4 makes sendmail.cf of mc, in the folder it will be in, until remove is called.
func (in Installation) m4(ctx context.Context, dir, mc string) (text []byte, cf string, remove func(), err error) {
	work, err := os.MkdirTemp(dir, ".tlsonly-setup-")
	if err != nil {
		return nil, "", nil, err
	}
	remove = func() { _ = os.RemoveAll(work) }
	source := filepath.Join(work, "sendmail.mc")
	cf = filepath.Join(work, "sendmail.cf")
	if err = os.WriteFile(source, []byte(mc), 0o600); err == nil {
		text, err = in.run(ctx, "", "m4", source)
	}
	if err == nil {
		err = os.WriteFile(cf, text, 0o600)
	}
	if err != nil {
		remove()
	}
	return text, cf, remove, err
}

// build makes sendmail.cf and proves what comes out.
func (in Installation) build(ctx context.Context, dir, mc string, s Settings) (text []byte, err error) {
	text, cf, remove, err := in.m4(ctx, dir, mc)
	if err != nil {
		return nil, err
	}
	defer remove()
	in.Cf = cf
	c := parseConf(string(text))
	found := append(c.filter(s), c.checkMaps(s)...)
	if c.hasRules() {
		proofs, err := in.prove(ctx, c.text, s.proofs())
		if err != nil {
			return nil, fmt.Errorf("the new sendmail.cf: %w", err)
		}
		found = append(found, proofs...)
	}
	for _, f := range found {
		switch {
		case f.Severity == mta.Hole && f.Remedy == runSetup:
			return nil, fmt.Errorf("the new sendmail.cf would not bind Sendmail, so nothing was changed: %s", f.Text)
		case f.Severity == mta.Broken && f.Code == proofRead:
			return nil, fmt.Errorf("with the new sendmail.cf, so nothing was changed: %s: %s", f.Text, f.Remedy)
		}
	}
	return text, nil
}

// withoutComments leaves out what differs with each run of m4: who made it, when and where.
func withoutComments(cf []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(cf) {
		if !bytes.HasPrefix(line, []byte("#")) {
			b.Write(line)
		}
	}
	return b.Bytes()
}

// writeLike writes a file as a whole, with the mode and owner of another.
func writeLike(path, model string, text []byte) (err error) {
	info, err := os.Stat(model)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tlsonly-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(info.Mode().Perm())); err == nil {
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			if err = f.Chown(int(owner.Uid), int(owner.Gid)); errors.Is(err, fs.ErrPermission) {
				err = nil // not root: then it is ours as the other was
			}
		}
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
