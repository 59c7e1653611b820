package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// sentProbe is a message of the probe in the queue. A content filter gives it
// back under another queue id, so its recipient tells it from others.
type sentProbe struct {
	instance Instance
	to       string
}

// queuedProbe is what the queue has of it.
type queuedProbe struct{ id, queue, reason string }

// listings is how many listings of the queue in a row must be without a message
// that is gone: one can miss what is just moved, or with a filter.
const listings = 3

// entries lists the probe's entries in the queue.
func (p sentProbe) entries(ctx context.Context) (found []queuedProbe, err error) {
	out, _, err := p.instance.run(ctx, "", "postqueue", "-j")
	if err != nil {
		return nil, err
	}
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var m struct {
			ID         string `json:"queue_id"`
			Queue      string `json:"queue_name"`
			Recipients []struct {
				Address string `json:"address"`
				Reason  string `json:"delay_reason"`
			} `json:"recipients"`
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		for _, r := range m.Recipients {
			if strings.EqualFold(r.Address, p.to) {
				if m.Queue == "hold" && r.Reason == "" {
					r.Reason = "it is on hold"
				}
				found = append(found, queuedProbe{m.ID, m.Queue, r.Reason})
			}
		}
	}
}

// busy reports whether Postfix may still be at work on an entry.
func (q queuedProbe) busy() bool { return q.queue != "deferred" && q.queue != "hold" }

// outcome waits until the message was tried. It returns why it waits, "" when
// it is gone.
func (p sentProbe) outcome(ctx context.Context) (reason string, err error) {
	for gone := 0; gone < listings; {
		found, err := p.entries(ctx)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil:
			return "", err
		}
		gone++
		for _, q := range found {
			if !q.busy() && q.reason != "" {
				return q.reason, nil
			}
			gone = 0
		}
		if err := pause(ctx); err != nil {
			return "", err
		}
	}
	return "", nil
}

// remove takes the message out of the queue once Postfix is done with it, and
// what a filter gives back of it. At the end of ctx it does so in any case.
func (p sentProbe) remove(ctx context.Context) error {
	for gone := 0; gone < listings; {
		found, err := p.entries(ctx)
		if ctx.Err() != nil {
			return p.force(context.WithoutCancel(ctx))
		}
		if err != nil {
			return err
		}
		gone++
		for _, q := range found {
			gone = 0
			if q.busy() {
				continue
			}
			if _, _, err := p.instance.run(ctx, "", "postsuper", "-d", q.id, q.queue); err != nil && ctx.Err() == nil {
				return err
			}
		}
		_ = pause(ctx)
	}
	return nil
}

// force takes out what Postfix is still busy with.
func (p sentProbe) force(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, margin)
	defer cancel()
	found, err := p.entries(ctx)
	errs := []error{err}
	for _, q := range found {
		_, _, err := p.instance.run(ctx, "", "postsuper", "-d", q.id)
		errs = append(errs, err, fmt.Errorf("message %s was still in the %s queue when it was taken out", q.id, q.queue))
	}
	return errors.Join(errs...)
}

// pause waits a moment.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(100 * time.Millisecond):
		return nil
	}
}

// relayOf returns the next hop of a message to a loopback address where that is
// another one: such mail would leave this machine. Our own tables name none.
func (f Facts) relayOf(ctx context.Context, t *Tables, from addr.Address, ip string) (string, error) {
	literal := "[" + ip + "]"
	look := func(parameter string, keys ...string) (string, error) {
		for _, table := range splitList(f.value(parameter)) {
			if isOurSenders(table) {
				continue
			}
			found, err := t.Lookup(ctx, table, keys)
			if err != nil {
				return "", err
			}
			for _, key := range keys {
				if value := found[key]; value != "" && !strings.EqualFold(value, "DUNNO") {
					return value, nil
				}
			}
		}
		return "", nil
	}
	t.queue = f.value("queue_directory")
	route, err := look("transport_maps", "tlsonly-probe@"+literal, literal, "*")
	if err != nil {
		return "", err
	}
	senders := []string{from.String()}
	if from.IsNull() {
		senders = []string{"<>"}
	} else if !from.Domain.IsZero() {
		senders = append(senders, "@"+from.Domain.String())
	}
	hops := []string{hopOf(route)}
	relay, err := look("sender_dependent_relayhost_maps", senders...)
	if err != nil {
		return "", err
	}
	hops = append(hops, relay, f.value("relayhost"))
	transport, err := look(senderMaps, senders...)
	if err != nil {
		return "", err
	}
	hops = append(hops, hopOf(transport), hopOf(f.value("default_transport")))
	for _, hop := range hops {
		if hop != "" {
			return hop, nil
		}
	}
	return "", nil
}

// hopOf returns the next hop of a transport:nexthop.
func hopOf(route string) string {
	_, hop, _ := strings.Cut(route, ":")
	return hop
}
