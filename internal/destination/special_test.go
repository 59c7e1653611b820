package destination

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Of names below "invalid" everybody knows that they don't exist: nobody is
// asked, and nothing is kept. Names that only look like them are looked at.
func TestInvalid(t *testing.T) {
	for _, c := range []struct {
		name string
		want bool
	}{
		{"invalid", true}, {"x.invalid", true}, {"a.b.Invalid", true}, {"[x.invalid]:587", true},
		{"invalid.example", false}, {"xinvalid", false}, {"[192.0.2.1]", false},
	} {
		found := 0
		a, err := New(Config{Resolver: noResolver{}, Prober: noProber{}, OnResult: func(policy.Assessment) { found++ }})
		if err != nil {
			t.Fatal(err)
		}
		d := addr.MustDestination(c.name)
		if _, got := a.nowhere(d); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if c.want {
			got := a.Assess(t.Context(), d, nil)
			if got.Problem != policy.NoSuchDomain || got.Destination != d || !got.Until.After(got.When) || got.Partial {
				t.Errorf("%s: %+v", c.name, got)
			}
			if _, known := a.Remembered(d); known || found > 0 {
				t.Errorf("%s: it is kept, or told of", c.name)
			}
			// A look that was asked for is told of, for who has the name of old.
			if got := a.Refresh(t.Context(), d, 0); got.Problem != policy.NoSuchDomain || found != 1 {
				t.Errorf("%s: refreshed %+v, told of %d times", c.name, got, found)
			}
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// noResolver and noProber must not be asked.
type (
	noResolver struct{ Resolver }
	noProber   struct{ Prober }
)
