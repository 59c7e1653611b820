package sendmail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"tlsonly/internal/mta"
)

// CheckBinding is the core of Doctor: what of sendmail.cf itself binds Sendmail, and
// whether the one that runs has read it. The daemon looks so every few minutes,
// as its own user: nobody is asked, nothing is written, no program runs. The
// files are known even where there is an error, which is about what it could
// not look at.
func (in Installation) CheckBinding(_ context.Context, s Settings) (mta.Inspection, error) {
	look := mta.Inspection{Files: []string{in.cf()}}
	if err := s.check(); err != nil {
		return look, err
	}
	text, err := os.ReadFile(in.cf())
	if err != nil {
		return look, err
	}
	c := parseConf(string(text))
	look.Files = append(look.Files, in.pidFile(c))
	look.Findings = slices.Concat(c.filter(s), c.checkMaps(s), c.certificates(), c.bounces(s))
	running, err := in.running(c)
	look.Findings = append(look.Findings, running...)
	if errors.Is(err, fs.ErrPermission) {
		if len(running) == 0 {
			look.Findings = append(look.Findings, mta.Finding{Severity: mta.Warning,
				Code: "not-looked-at", Check: "running", Where: in.pidFile(c),
				Text:   fmt.Sprintf("whether Sendmail runs cannot be looked into: %v", err),
				Remedy: "let the daemon's user read it"})
		}
		err = nil
	}
	return look, err
}

// pidFile is where Sendmail keeps the number of its process.
func (in Installation) pidFile(c conf) string {
	pid := c.option["pidfile"]
	if pid == "" {
		pid = "/var/run/sendmail.pid"
	}
	return filepath.Join("/", in.Root, pid)
}
