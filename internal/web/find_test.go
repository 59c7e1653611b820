package web

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// A page of a list is what sorting everything and cutting would give.
func TestFind(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	w := newWorld()
	for range 2000 {
		d := addr.MustDestination(fmt.Sprintf("d%d.example", random.IntN(5000)))
		w.known[d] = Summary{Destination: d, Level: policy.Levels()[random.IntN(5)], Pinned: random.IntN(2) == 0, Failures: random.IntN(3)}
	}
	c := w.config(t)
	names := slices.SortedFunc(maps.Keys(w.known), func(a, b addr.Destination) int { return strings.Compare(a.String(), b.String()) })
	for range 100 {
		q := query{Text: []string{"", "1", "d4", "99"}[random.IntN(4)], Level: []string{"", "encrypt"}[random.IntN(2)], Failing: random.IntN(2) == 0,
			After: []string{"", "d2", "d4999.example", "zz"}[random.IntN(4)], Limit: 1 + random.IntN(60)}
		var want []string
		matched := 0
		for _, name := range names {
			if q.matches(name.String(), w.known[name]) {
				matched++
				if name.String() > q.After {
					want = append(want, name.String())
				}
			}
		}
		f := c.find(q)
		var got []string
		for _, k := range f.Summaries {
			got = append(got, k.Destination.String())
		}
		more := len(want) > q.Limit
		if more {
			want = want[:q.Limit]
		}
		if !slices.Equal(got, want) || f.Matched != matched || f.More != more || f.All != len(w.known) {
			t.Fatalf("%+v: %d of %d, more %v: %q, want %q", q, f.Matched, f.All, f.More, got, want)
		}
	}
}

// A query survives its way through a link.
func TestQueryValues(t *testing.T) {
	for _, text := range []string{"", "query=x&level=dane&failing=true&pinned=true&lost=true&after=a.example&limit=7", "level=unknown", "query=%5Brelay"} {
		v, err := url.ParseQuery(text)
		if err != nil {
			t.Fatal(err)
		}
		q, err := parseQuery(v)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseQuery(q.values()); err != nil || again != q {
			t.Errorf("%+v, %+v, %v", q, again, err)
		}
	}
	if q, _ := parseQuery(url.Values{"query": {"BÜCHER.example"}}); q.Text != "xn--bcher-kva.example" {
		t.Error(q.Text)
	}
}
