package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"tlsonly/internal/binding"
	"tlsonly/internal/config"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/place"
)

// keepAgain is after how long --keep tries again what failed, where no file
// changes.
const keepAgain = time.Minute

// keepPostfix writes the settings again each time main.cf or master.cf has lost
// some of them, until ctx ends. What setup has never written, or was undone, is
// left as it is.
func (p *program) keepPostfix(ctx context.Context, file, directory string, hide bool) int {
	c, ok := p.load(file, false)
	if !ok {
		return exitUsage
	}
	if err := hasMap(c); err != nil {
		return p.fail("%v", err)
	}
	i := postfixAt(c.Forwarding, directory)
	if err := i.Check(); err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitNo
	}
	dir := cmp.Or(directory, os.Getenv("MAIL_CONFIG"), place.Postfix)
	paths := append(postfix.Facts{Dir: dir}.PlanFiles(), file)
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	said := "" // the last fault
	binding.Follow(ctx, log, keepAgain, paths, func(ctx context.Context) (files []string, err error) {
		switch isSetUp, serr := isSetUp(dir); {
		case serr != nil:
			err = serr
		case !isSetUp:
			err = errors.New(dir + ": not set up, or undone: nothing is written until you run setup postfix --apply")
		default:
			files, err = p.setUpAgain(ctx, file, i, hide, said != "")
			if files != nil {
				files = append(files, file)
			}
		}
		fault := ""
		if err != nil {
			fault = err.Error()
		}
		if ctx.Err() != nil {
			return nil, err
		}
		if fault != "" && fault != said {
			fmt.Fprintf(p.stderr, "tlsonly: %s\n", fault)
		}
		said = fault
		return files, err
	})
	return exitOK
}

// setUpAgain is setup by the configuration file as it is now. Where nothing is to
// be written it does nothing, unless something failed the last time: Postfix may
// not have been told. It returns the files of Postfix on which that rests, nil
// where they can't be read.
func (p *program) setUpAgain(ctx context.Context, file string, i postfix.Instance, hide, failed bool) ([]string, error) {
	c, err := config.Load(file)
	if err == nil {
		c, err = withDelimiter(ctx, c)
	}
	if err == nil {
		err = hasMap(c)
	}
	if err != nil {
		return nil, fmt.Errorf("nothing is written: %w", err)
	}
	how := setupHow{apply: true, renew: true, hide: hide, again: true}
	facts, _, plan, err := p.planPostfix(ctx, c, i, how)
	var files []string
	if facts.Dir != "" {
		files = facts.PlanFiles()
	}
	if err != nil || plan.Empty() && !failed {
		return files, err
	}
	return files, p.setupPostfix(ctx, c, i, how)
}

// isSetUp reports whether setup has written into a configuration directory, and
// nobody has undone it.
func isSetUp(dir string) (bool, error) {
	_, err := os.Stat(postfix.RecordPath(dir))
	if os.IsNotExist(err) {
		return false, nil
	}
	return err == nil, err
}
