package socketmap

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"tlsonly/internal/contract"
)

// mostHeard bounds the names that are kept: who asks chooses them.
const mostHeard = 1000

// heard remembers by which names the MTA asks for its maps: they say how many
// transports it has, what its own tables are asked, and what its transports'
// floor is. Explain asks by the same.
type heard struct {
	names atomic.Pointer[map[string]bool] // never changed, only replaced
	mu    sync.Mutex                      // held while it is
}

func (h *heard) note(name []byte) {
	if known := h.names.Load(); known != nil && ((*known)[string(name)] || len(*known) >= mostHeard) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	next := map[string]bool{string(name): true}
	if known := h.names.Load(); known != nil {
		maps.Copy(next, *known)
	}
	h.names.Store(&next)
}

// forced returns the names by which the transport of class n, 0 for the strict
// one, was asked for, and its plain name where it wasn't.
func (h *heard) forced(n int) []string {
	return h.of(contract.ForcedMap(n, ""), func(name []byte) bool {
		is, _, ok := contract.ParseForcedMap(name)
		return ok && is == n
	})
}

// sender returns the names by which the transport of a sender was asked for.
func (h *heard) sender() []string {
	return h.of(contract.MapSender, func(name []byte) bool {
		_, ok := contract.ParseSenderMap(name)
		return ok
	})
}

func (h *heard) of(usual contract.Map, is func(name []byte) bool) []string {
	var found []string
	if known := h.names.Load(); known != nil {
		for name := range *known {
			if is([]byte(name)) {
				found = append(found, name)
			}
		}
	}
	if len(found) == 0 {
		return []string{string(usual)}
	}
	slices.Sort(found)
	return found
}
