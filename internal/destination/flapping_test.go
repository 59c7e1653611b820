package destination

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// How often the first probe of a host decides that shows TLS now and then: never
// against it, where a second is made; without one, whenever it shows none.
func TestFlappingShares(t *testing.T) {
	const hosts = 300
	random := rand.New(rand.NewPCG(1, 2))
	demand := policy.DefaultDemand()
	var table strings.Builder
	for _, share := range []float64{0.1, 0.25, 0.5, 0.75, 0.9} {
		for _, pause := range []time.Duration{0, time.Millisecond} {
			var accepted, acceptedSecond, refusedFirst, refusedSecond int
			for range hosts {
				var outcomes []policy.Outcome
				for range 3 {
					outcomes = append(outcomes, policy.SawNoSTARTTLS)
					if random.Float64() < share {
						outcomes[len(outcomes)-1] = policy.SawTLS
					}
				}
				a, h := newFlapping(t, func(c *Config) { c.Confirm = pause }, outcomes...)
				got := a.Assess(t.Context(), addr.MustDestination("x.test"), encrypted)
				probes, good := len(h.times()), judge.Destination(demand, got) == ""
				final := good || pause == 0 || judge.Confirmed(demand, got)
				first := outcomes[0] == policy.SawTLS
				second := outcomes[1] == policy.SawTLS
				switch {
				case !final:
					t.Errorf("%v: nothing is decided after %d probes", outcomes, probes)
				case good && probes == 1 && first:
					accepted++
				case good && probes == 2 && !first && second:
					acceptedSecond++
				case !good && probes == 1 && !first && pause == 0:
					refusedFirst++
				case !good && probes == 2 && !first && !second:
					refusedSecond++
				default:
					t.Errorf("%v: good %t after %d probes", outcomes, good, probes)
				}
			}
			of := func(n int) string { return fmt.Sprintf("%5.1f %%", 100*float64(n)/hosts) }
			fmt.Fprintf(&table, "TLS in %3.0f %% of probes, a second one: %-5t accepted by the first %s, by the second %s; refused by the first %s, by both %s\n",
				100*share, pause > 0, of(accepted), of(acceptedSecond), of(refusedFirst), of(refusedSecond))
		}
	}
	t.Logf("%d hosts each:\n%s", hosts, table.String())
}
