package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/contract"
)

// Tables reads an instance's settings and tables as they are in effect, whatever their type: hash, lmdb, regexp, ldap, mysql,
// socketmap and what else postmap(1) was built with. It may be used by several goroutines. The zero value but for Instance is
// ready for use.
//
// A table behind proxymap(8) ("proxy:") is opened directly, as local(8) does: only Postfix's own users may talk to proxymap.
//
// SECURITY: keys are what strangers write. They go to postmap by its standard input, one a line, never as arguments, and no
// shell is in between.
type Tables struct {
	Instance Instance

	mu    sync.Mutex
	queue string // Postfix's directory, to which the sockets of tables may be relative
	bound bool   // it asks our map first by which transport a sender's mail leaves
}

const (
	batch      = 5000             // keys asked for at once: postmap answers when its input ends
	mostOutput = 512 << 20        // of one postmap
	mostTime   = 60 * time.Second // for it; callers have their own deadlines
)

// Settings returns each parameter with what it refers to put in, and the program of each transport.
func (t *Tables) Settings(ctx context.Context) (parameters, transports map[string]string, err error) {
	var text Postconf
	for _, ask := range []struct {
		flag string
		to   *string
	}{{"-x", &text.Expanded}, {"-M", &text.Services}} {
		if *ask.to, _, err = t.Instance.run(ctx, "", "postconf", ask.flag); err != nil {
			return nil, nil, fmt.Errorf("read the settings of postfix: %w", err)
		}
	}
	// What Facts wants besides is known of the expanded form.
	text.All = text.Expanded
	f, err := text.Facts()
	if err != nil {
		return nil, nil, fmt.Errorf("read the settings of postfix: %w", err)
	}
	transports = make(map[string]string)
	for _, s := range f.Services {
		if s.Type == "unix" || s.Type == "fifo" {
			transports[s.Name] = s.Command
		}
	}
	t.mu.Lock()
	tables := splitList(f.expanded[senderMaps])
	t.queue = f.value("queue_directory")
	t.bound = len(tables) > 0 && strings.HasPrefix(tables[0], "socketmap:") && isOurSenders(tables[0])
	t.mu.Unlock()
	// Ours names no next hop, and is asked by nobody but Postfix.
	f.expanded[senderMaps] = strings.Join(f.siteSenderTables(), ", ")
	return f.expanded, transports, nil
}

// Bound reports whether by the settings that were read last tlsonly is asked
// first by which transport a sender's mail leaves. A table of senders in its
// place isn't asked: it may be older than the rules.
func (t *Tables) Bound() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bound
}

// isOurSenders reports whether a table of senders is the one that Apply sets.
func isOurSenders(table string) bool {
	return contract.SenderTable(contract.SenderSocket(table), table) || strings.HasPrefix(table, "regexp:") && filepath.Base(table) == sendersFile
}

// Lookup asks a table for keys. What isn't found isn't in the answer. An error means that Postfix would make mail wait: no such
// file, a server that doesn't answer, a broken table.
func (t *Tables) Lookup(ctx context.Context, table string, keys []string) (map[string]string, error) {
	found := make(map[string]string)
	for len(keys) > 0 {
		part := keys[:min(batch, len(keys))]
		keys = keys[len(part):]
		for _, key := range part {
			if key == "" || strings.ContainsAny(key, "\t\n\r\x00") {
				return nil, fmt.Errorf("ask %s: key %q", table, key)
			}
		}
		out, err := t.postmap(ctx, strings.Join(part, "\n")+"\n", "-q", "-", table)
		if err != nil {
			return nil, err
		}
		// The answers come in the order of the keys.
		for line := range strings.Lines(out) {
			for len(part) > 0 && !strings.HasPrefix(line, part[0]+"\t") {
				part = part[1:]
			}
			if len(part) == 0 {
				return nil, fmt.Errorf("ask %s: postmap answered %.200q, which wasn't asked", table, line)
			}
			found[part[0]] = strings.TrimRight(line[len(part[0])+1:], "\r\n")
		}
	}
	return found, nil
}

// List returns the whole content of a table that can be gone through: hash, btree, lmdb, texthash, inline and some more.
func (t *Tables) List(ctx context.Context, table string) (map[string]string, error) {
	out, err := t.postmap(ctx, "", "-s", table)
	if err != nil {
		return nil, err
	}
	entries := make(map[string]string, strings.Count(out, "\n"))
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "\t"); ok {
			entries[key] = value
		}
	}
	return entries, nil
}

// postmap runs postmap(1). Its exit status is 1 when nothing was found, and when it can't know.
func (t *Tables) postmap(ctx context.Context, input string, args ...string) (string, error) {
	table := strings.TrimPrefix(args[len(args)-1], "proxy:")
	args[len(args)-1] = table
	if kind, _, ok := strings.Cut(table, ":"); !ok || kind == "" || strings.HasPrefix(kind, "-") {
		return "", fmt.Errorf("table %q: want type:name", table)
	}
	ctx, cancel := context.WithTimeout(ctx, mostTime)
	defer cancel()
	cmd, err := t.Instance.command(ctx, "postmap", args...)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	cmd.Dir = t.queue
	t.mu.Unlock()
	if !filepath.IsAbs(cmd.Dir) {
		cmd.Dir = ""
	}
	out, said := &limited{most: mostOutput}, &limited{most: 1 << 20}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), out, said
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("ask %s: %w", table, context.Cause(ctx))
	case err == nil:
		return out.String(), nil
	case errors.As(err, &exit) && exit.ExitCode() == 1 && !complains(said.String()):
		return out.String(), nil
	}
	if last := lastLine(said.String()); last != "" {
		err = errors.New(last)
	}
	return "", fmt.Errorf("ask %s: %w", table, err)
}

// complains reports whether postmap gave up, other than by finding nothing. Its warnings Postfix overlooks, too.
func complains(said string) bool {
	for line := range strings.Lines(said) {
		if strings.Contains(line, ": fatal: ") || strings.Contains(line, ": panic: ") || strings.Contains(line, ": error: ") {
			return true
		}
	}
	return false
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// limited is a buffer that ends who writes too much.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.most {
		return 0, fmt.Errorf("more than %d octets", l.most)
	}
	return l.Buffer.Write(p)
}
