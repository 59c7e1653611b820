package web

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// healthz says that the process lives: that it answers is the answer.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	answerHealth(w, r, http.StatusOK, health{Status: "ok", Version: s.c.Version})
}

// health is the answer of /healthz and /readyz.
type health struct {
	Status  string       `json:"status"` // "ok" or "failed"
	Version string       `json:"version,omitempty"`
	Checks  []checkState `json:"checks,omitempty"`
}

type checkState struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// checkTime is how long a check may take.
const checkTime = 5 * time.Second

// checked runs all checks, at the same time.
func (s *Server) checked(ctx context.Context) health {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	h := health{Status: "ok", Checks: make([]checkState, len(s.c.Checks))}
	var all sync.WaitGroup
	for i, check := range s.c.Checks {
		all.Go(func() {
			state := checkState{Name: check.Name, OK: true}
			if err := check.test(ctx); err != nil {
				state.OK, state.Error = false, err.Error()
			}
			h.Checks[i] = state
		})
	}
	all.Wait()
	if state, ok := s.c.bindingCheck(); ok {
		h.Checks = append(h.Checks, state)
	}
	for _, c := range h.Checks {
		if !c.OK {
			h.Status = "failed"
		}
	}
	return h
}

// test runs the check; one that panics has failed.
func (c Check) test(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check went wrong: %v", p)
		}
	}()
	return c.Test(ctx)
}

// readyz says whether the daemon can do its work.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	h := s.checked(r.Context())
	status := http.StatusOK
	if h.Status != "ok" {
		status = http.StatusServiceUnavailable
	}
	answerHealth(w, r, status, h)
}

func answerHealth(w http.ResponseWriter, r *http.Request, status int, h health) {
	if prefers(r, "json") {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		write(w, h)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	var b strings.Builder
	fmt.Fprintln(&b, h.Status)
	for _, c := range h.Checks {
		if c.OK {
			fmt.Fprintf(&b, "%s: ok\n", c.Name)
		} else {
			fmt.Fprintf(&b, "%s: %s\n", c.Name, c.Error)
		}
	}
	_, _ = w.Write([]byte(b.String()))
}
