package main

import (
	"net"
	"sync"
	"time"
)

// link is a way to a TCP server on which everything takes its time, the connection's set-up as well.
type link struct {
	listener net.Listener
	to       string
	oneWay   time.Duration

	mu      sync.Mutex
	closed  bool
	open    map[net.Conn]bool
	running sync.WaitGroup
}

func newLink(listen, to string, oneWay time.Duration) (*link, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	k := &link{listener: l, to: to, oneWay: oneWay, open: map[net.Conn]bool{}}
	k.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			k.running.Go(func() { k.carry(near) })
		}
	})
	return k, nil
}

func (k *link) close() error {
	err := k.listener.Close()
	k.mu.Lock()
	k.closed = true
	for c := range k.open {
		c.Close()
	}
	k.mu.Unlock()
	k.running.Wait()
	return err
}

// keep has close close c; it reports whether that is still to come.
func (k *link) keep(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open[c] = true
	return !k.closed
}

func (k *link) carry(near net.Conn) {
	defer near.Close()
	// To the peer the connection stands at once; over a real link it would after a round trip.
	time.Sleep(2 * k.oneWay)
	far, err := net.Dial("tcp", k.to)
	if err != nil {
		return
	}
	defer far.Close()
	if !k.keep(near) || !k.keep(far) {
		return
	}
	defer func() {
		k.mu.Lock()
		delete(k.open, near)
		delete(k.open, far)
		k.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { k.copy(far, near) })
	both.Go(func() { k.copy(near, far) })
	both.Wait()
}

type parcel struct {
	data []byte
	due  time.Time
}

// copy hands on what comes, each piece when its time on the way is over.
func (k *link) copy(to, from net.Conn) {
	parcels := make(chan parcel, 1024)
	go func() {
		defer close(parcels)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				parcels <- parcel{buf[:n], time.Now().Add(k.oneWay)}
			}
			if err != nil {
				return
			}
		}
	}()
	broken := false
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		if !broken {
			_, err := to.Write(p.data)
			broken = err != nil
		}
	}
	if tcp, ok := to.(interface{ CloseWrite() error }); ok {
		_ = tcp.CloseWrite() // gone already
	}
}
