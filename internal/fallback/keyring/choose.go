package keyring

import (
	"context"
	"errors"
	"fmt"

	"tlsonly/internal/addr"
	"tlsonly/internal/fallback"
	"tlsonly/internal/policy"
)

// Methods are the methods that there are, by their names.
type Methods map[policy.Method]fallback.Method

// First returns the first of the methods named that is certain for this mail.
// Without one the state is None only where it is None of all of them, and the
// error says why of each. A name that isn't in m is Unknown: its rules are older
// or newer than the process.
func (m Methods) First(ctx context.Context, names []policy.Method, sender, recipient addr.Address) (fallback.Method, fallback.State, error) {
	state := fallback.None
	var causes []error
	for _, name := range names {
		method, ok := m[name]
		if !ok {
			state = fallback.Unknown
			causes = append(causes, fmt.Errorf("%s: not ready here", name))
			continue
		}
		is, cause := method.Known(ctx, sender, recipient)
		switch {
		case is == fallback.Certain:
			return method, fallback.Certain, nil
		case is != fallback.None:
			state = fallback.Unknown
		}
		causes = append(causes, cause)
	}
	if len(causes) == 0 {
		causes = append(causes, errors.New("the rules of this sender name no method in common"))
	}
	return nil, state, errors.Join(causes...)
}
