package socketmap

import (
	"context"
	"sync"
	"time"
)

// lazyWait is a context that ends after a time, or with its parent. Nearly every answer is in memory, where nobody waits: its
// time begins to count, and to cost, only when somebody asks for its end.
type lazyWait struct {
	context.Context // the parent
	limit           time.Duration

	mu     sync.Mutex
	waited context.Context // nil: nobody has waited yet
	cancel context.CancelFunc
}

func (p *lazyWait) begun() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waited == nil {
		p.waited, p.cancel = context.WithTimeout(p.Context, p.limit)
	}
	return p.waited
}

// Done is closed when the time is over.
func (p *lazyWait) Done() <-chan struct{} { return p.begun().Done() }

// Err says why Done is closed.
func (p *lazyWait) Err() error { return p.begun().Err() }

// Deadline is when Done will be closed.
func (p *lazyWait) Deadline() (time.Time, bool) { return p.begun().Deadline() }

// end gives back what waiting took.
func (p *lazyWait) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}
