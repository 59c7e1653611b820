package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/store/storetest"
)

// childEnv says what a process that a test started has to do, and childFile with which database.
const (
	childEnv  = "TLSONLY_STORE_CHILD"
	childFile = "TLSONLY_STORE_FILE"
)

func child() {
	file := os.Getenv(childFile)
	var err error
	switch os.Getenv(childEnv) {
	case "":
		return
	case "crash":
		err = crash(file)
	case "full":
		err = full(file)
	case "read-only":
		err = readOnly(file)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childCommand(task, file string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+task, childFile+"="+file)
	return c
}

// crash raises demands for ever, each acknowledged by a line, while it stores assessments, too.
func crash(file string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: "sqlite://" + file, Daemon: true})
	if err != nil {
		return err
	}
	go func() {
		for i := 0; ; i++ {
			a := storetest.Assessment(fmt.Sprintf("a%d.example", i%50), fmt.Sprintf("p%d.example", i%7), time.Now())
			if _, err := s.RecordAssessment(ctx, store.Result{Destination: a.Destination, When: time.Now(), OK: true, Pin: true, Assessment: &store.Assessment{Assessment: a, Port: 25}}); err != nil {
				fmt.Println("look:", err)
				os.Exit(1)
			}
		}
	}()
	for i := 0; ; i++ {
		d := fmt.Sprintf("d%d-%d.example", os.Getpid(), i)
		if _, err := s.RaiseDemand(ctx, addr.MustDestination(d), store.Demand{Level: policy.LevelEncrypt}); err != nil {
			return err
		}
		fmt.Println(d)
	}
}

// TestKilled ends a daemon in the middle of its writes, again and again: nothing it acknowledged is lost, and the file opens.
func TestKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(tempDir(t), "tlsonly.db")
	config := store.Config{URL: "sqlite://" + file}
	acknowledged := map[addr.Destination]bool{}
	for round := range 100 {
		c := childCommand("crash", file)
		output, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for scanner := bufio.NewScanner(output); scanner.Scan(); lines++ {
			d, err := addr.ParseDestination(scanner.Text())
			if err != nil {
				t.Fatalf("round %d: %s", round, scanner.Text())
			}
			acknowledged[d] = true
			if lines == round%5 {
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := c.Wait(); err == nil || lines == 0 {
			t.Fatalf("round %d: ended by itself: %v", round, err)
		}
	}
	s := open(t.Context(), t, config)
	snap, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range snap.Destinations {
		if e.Demand.Level == policy.LevelEncrypt {
			delete(acknowledged, e.Destination)
		}
	}
	if len(acknowledged) > 0 {
		t.Fatalf("lost: %v", acknowledged)
	}
	c := config
	c.Daemon = true
	open(t.Context(), t, c)
}

// inNamespace runs a task in a mount namespace of its own, with a small file system at the directory of file.
func inNamespace(t *testing.T, task string) {
	t.Parallel()
	c := childCommand(task, filepath.Join(t.TempDir(), "tlsonly.db"))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	output, err := c.CombinedOutput()
	if strings.Contains(string(output), errNoMount.Error()) || errors.Is(err, os.ErrPermission) {
		t.Skipf("no file system of our own: %v %s", err, output)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func TestDiskFull(t *testing.T) { inNamespace(t, "full") }
func TestReadOnly(t *testing.T) { inNamespace(t, "read-only") }

var errNoMount = errors.New("can't mount")

func mount(dir string) error {
	err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	if err == nil {
		err = syscall.Mount("store", dir, "tmpfs", 0, "size=1m,mode=0755")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errNoMount, err)
	}
	return nil
}

// full writes until nothing more goes in, makes room, and goes on.
func full(file string) error {
	ctx := context.Background()
	if err := mount(filepath.Dir(file)); err != nil {
		return err
	}
	ballast := file + ".ballast"
	if err := os.WriteFile(ballast, make([]byte, 1<<18), 0o600); err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{URL: "sqlite://" + file, Daemon: true})
	if err != nil {
		return err
	}
	var kept []addr.Destination
	for {
		d := addr.MustDestination(fmt.Sprintf("d%d.example", len(kept)))
		_, err = s.RaiseDemand(ctx, d, store.Demand{Level: policy.LevelEncrypt})
		if err != nil {
			break
		}
		if kept = append(kept, d); len(kept) > 100000 {
			return errors.New("the disk isn't full")
		}
	}
	if !strings.Contains(err.Error(), "disk full") {
		return fmt.Errorf("unclear: %w", err)
	}
	if s.Healthy() == nil {
		return errors.New("healthy with a full disk")
	}
	check := func() error {
		snap, err := s.Load(ctx)
		if err != nil {
			return err
		}
		if len(snap.Destinations) < len(kept) {
			return fmt.Errorf("%d of %d destinations", len(snap.Destinations), len(kept))
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	if s.Healthy() == nil {
		return errors.New("reading made a full disk healthy")
	}
	if err := os.Remove(ballast); err != nil {
		return err
	}
	if err := s.Ping(ctx); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	return check()
}

// readOnly opens a file that can't be written.
func readOnly(file string) error {
	ctx := context.Background()
	dir := filepath.Dir(file)
	if err := mount(dir); err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{URL: "sqlite://" + file})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := syscall.Mount("store", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("%w: %w", errNoMount, err)
	}
	_, err = store.Open(ctx, store.Config{URL: "sqlite://" + file, Daemon: true})
	if err == nil {
		return errors.New("a daemon opened a read-only file")
	}
	if !strings.Contains(err.Error(), "read-only") {
		return fmt.Errorf("unclear: %w", err)
	}
	s, err = store.Open(ctx, store.Config{URL: "sqlite://" + file})
	if err == nil {
		err = s.Ping(ctx)
	}
	if err == nil || !strings.Contains(err.Error(), "can't be opened for writing") {
		return fmt.Errorf("unclear: %w", err)
	}
	return nil
}
