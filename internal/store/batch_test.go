package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// What many want to write at once is one transaction; who fails in it, panics or has left spoils nothing for the others, and where
// the whole came to nothing each has its own.
func TestTogether(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	failed := errors.New("refused")
	for _, test := range []struct {
		name     string
		breaks   string // a statement that one of them runs after its own
		together bool   // and it is one transaction
	}{
		{"one fails, one panics, one has left", `SELECT 1`, true},
		{"one undoes all", `ROLLBACK`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(ctx, Config{URL: "sqlite://" + filepath.Join(t.TempDir(), "db")})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.update(ctx, "test", func(t *work) error { return t.exec(ctx, `CREATE TABLE mark (n BIGINT)`) }); err != nil {
				t.Fatal(err)
			}
			waiting := func() int {
				s.queue.mu.Lock()
				defer s.queue.mu.Unlock()
				return len(s.queue.waiting)
			}
			began, release := make(chan bool), make(chan bool)
			var group sync.WaitGroup
			group.Go(func() {
				err := s.update(ctx, "test", func(*work) error { close(began); <-release; return nil })
				if err != nil {
					t.Error(err)
				}
			})
			<-began
			// They wait in line now, in this order.
			const jobs = 20
			var mu sync.Mutex
			transactions := map[tx]bool{}
			left, leave := context.WithCancel(ctx)
			for n := range jobs {
				before := waiting()
				group.Go(func() {
					ctx := ctx
					if n == 5 {
						ctx = left
					}
					err := s.update(ctx, "test", func(t *work) error {
						mu.Lock()
						transactions[t.tx] = true
						mu.Unlock()
						if err := t.exec(ctx, fmt.Sprintf(`INSERT INTO mark (n) VALUES (%d)`, n)); err != nil {
							return err
						}
						switch n {
						case 3:
							return failed
						case 4:
							panic("at the disco")
						case 6:
							return t.exec(ctx, test.breaks)
						}
						return nil
					})
					var want error
					switch n {
					case 3:
						want = failed
					case 4:
						if err == nil || !strings.Contains(err.Error(), "at the disco") {
							t.Errorf("%d: %v", n, err)
						}
						return
					case 5:
						want = context.Canceled
					case 6:
						if !test.together {
							if err == nil {
								t.Error("the commit of what was undone")
							}
							return
						}
					}
					if !errors.Is(err, want) {
						t.Errorf("%d: %v, want %v", n, err, want)
					}
				})
				for waiting() == before {
					time.Sleep(time.Millisecond)
				}
			}
			leave()
			close(release)
			group.Wait()
			want := "0 1 2 6 7 8 9 10 11 12 13 14 15 16 17 18 19"
			if !test.together {
				want = strings.Replace(want, " 6", "", 1)
			}
			var got string
			err = s.view(ctx, "test", func(t tx) error {
				return scan(ctx, t, func(r rows) error { return r.Scan(&got) }, `SELECT group_concat(n, ' ') FROM (SELECT n FROM mark ORDER BY n)`)
			})
			if err != nil || got != want {
				t.Errorf("%v, stored %s, want %s", err, got, want)
			}
			if together := len(transactions) == 1; together != test.together {
				t.Errorf("%d transactions", len(transactions))
			}
		})
	}
}
