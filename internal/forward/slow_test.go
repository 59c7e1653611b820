package forward

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

// A file server that doesn't answer keeps some looks waiting, and no others.
func TestSoon(t *testing.T) {
	s := &slow{make(chan struct{}, 2), 20 * time.Millisecond}
	answer := make(chan struct{})
	hangs := func() (int, error) { <-answer; return 1, nil }
	for range 5 { // more than there are places
		if _, err := soon(t.Context(), s, "/nfs/x", hangs); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a look that hangs: %v", err)
		}
	}
	if len(s.places) != 2 {
		t.Errorf("%d looks under way, want 2", len(s.places))
	}
	close(answer)
	for range cap(s.places) { // both come back
		s.places <- struct{}{}
	}
	<-s.places
	s.wait = time.Minute
	if v, err := soon(t.Context(), s, "/x", func() (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang := make(chan struct{})
	defer close(hang)
	if _, err := soon(ctx, s, "/x", func() (int, error) { <-hang; return 0, nil }); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without time: %v", err)
	}
}

func TestSoonPanics(t *testing.T) {
	defer func() {
		if recover() != "odd" {
			t.Error("the panic is lost")
		}
	}()
	_, _ = soon(t.Context(), newSlow(), "/x", func() (int, error) { panic("odd") })
}
