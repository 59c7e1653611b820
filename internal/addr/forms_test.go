package addr

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// senders writes what Senders returns, in its order.
func senders(f Forms, address string) string {
	found, err := f.Senders(MustAddress(address))
	if err != nil {
		return err.Error()
	}
	return strings.Trim(fmt.Sprint(found), "[]")
}

func TestFormsSenders(t *testing.T) {
	for _, c := range []struct{ address, want, match string }{
		{"<>", "<>", ""},
		{"doctor@clinic.example", "doctor@clinic.example", ""},

		// What a form is around decides, never the form.
		{"prvs=1234abcdef=doctor@clinic.example", "doctor@clinic.example", ""},
		{"PRVS=1234ABCDEF=doctor@clinic.example", "doctor@clinic.example", ""},
		{"prvs=doctor=1234abcdef@clinic.example", "doctor@clinic.example", ""},
		{"prvs=doctor/1234abcdef@clinic.example", "doctor@clinic.example", ""},
		{"prvs=1234abcdef=a=b@clinic.example", "a=b@clinic.example", ""},
		{"btv1==1234abcdef==doctor@clinic.example", "doctor@clinic.example", ""},
		{"btv1==059ab0cf7e4==doctor@clinic.example", "doctor@clinic.example", ""},
		{"msprvs1=17815Z7xLOPzD=doctor@clinic.example", "doctor@clinic.example", ""},
		{"SRS0=HHH=TT=clinic.example=doctor@fwd.example", "doctor@clinic.example", "SRS0=HHH=TT=clinic.example=doctor@fwd.example doctor@clinic.example"},
		{"srs0=hhh=tt=Clinic.Example=Doctor@fwd.example", "Doctor@clinic.example", "srs0=hhh=tt=Clinic.Example=Doctor@fwd.example Doctor@clinic.example"},
		{"SRS0+HHH=TT=clinic.example=doctor@fwd.example", "doctor@clinic.example", "SRS0+HHH=TT=clinic.example=doctor@fwd.example doctor@clinic.example"},
		{"SRS0-H/H+=TT=clinic.example=doctor@fwd.example", "doctor@clinic.example", "SRS0-H/H+=TT=clinic.example=doctor@fwd.example doctor@clinic.example"},
		{"SRS0=HHH=TT=clinic.example=a=b@fwd.example", "a=b@clinic.example", "SRS0=HHH=TT=clinic.example=a=b@fwd.example a=b@clinic.example"},
		{"SRS0=HHH=TT=stranger.example=joe@clinic.example", "joe@stranger.example", "SRS0=HHH=TT=stranger.example=joe@clinic.example joe@stranger.example"},
		{"SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example", "doctor@clinic.example", "SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example " +
			"SRS0=HHH=TT=clinic.example=doctor@first.example doctor@clinic.example"},
		{"SRS1+HHH=first.example=+HHH=TT=clinic.example=doctor@second.example", "doctor@clinic.example", "SRS1+HHH=first.example=+HHH=TT=clinic.example=doctor@second.example " +
			"SRS0+HHH=TT=clinic.example=doctor@first.example doctor@clinic.example"},
		{"SRS1-HHH=first.example=-HHH=TT=clinic.example=doctor@second.example", "doctor@clinic.example", "SRS1-HHH=first.example=-HHH=TT=clinic.example=doctor@second.example " +
			"SRS0-HHH=TT=clinic.example=doctor@first.example doctor@clinic.example"},
		{"SRS0=HHH=TT=clinic.example=prvs=1234abcdef=doctor@fwd.example", "doctor@clinic.example", "SRS0=HHH=TT=clinic.example=prvs=1234abcdef=doctor@fwd.example doctor@clinic.example"},
		{"prvs=1234abcdef=SRS0=HHH=TT=clinic.example=doctor@fwd.example", "doctor@clinic.example", "SRS0=HHH=TT=clinic.example=doctor@fwd.example doctor@clinic.example"},

		// Somebody's name that only looks so.
		{"srs@fwd.example", "srs@fwd.example", ""},
		{"SRS0@fwd.example", "SRS0@fwd.example", ""},
		{"SRS2=HHH=TT=clinic.example=doctor@fwd.example", "SRS2=HHH=TT=clinic.example=doctor@fwd.example", ""},
		{"users=a=b.example=c@fwd.example", "users=a=b.example=c@fwd.example", ""},
		{"xsrs0=a=b.example=c@fwd.example", "xsrs0=a=b.example=c@fwd.example", ""},
	} {
		if got := senders(Forms{}, c.address); got != c.want {
			t.Errorf("%s: %s, want %s", c.address, got, c.want)
		}
		want := c.match
		if want == "" {
			want = c.want
		}
		if got := senders(Forms{SRS: SRSMatch}, c.address); got != want {
			t.Errorf("%s, srs = match: %s, want %s", c.address, got, want)
		}
	}
}

// What isn't of a form's exact syntax is taken for itself and for whatever may
// be inside.
func TestFormsMalformed(t *testing.T) {
	for _, c := range []struct{ address, inside string }{
		{"prvs=doctor@clinic.example", "prvs=doctor@clinic.example"},
		{"prvs=@clinic.example", "prvs=@clinic.example"},
		{"prvs=123=doctor@clinic.example", "doctor@clinic.example"},
		{"prvs=x=doctor@clinic.example", "doctor@clinic.example"},
		{"prvs=doctor=x@clinic.example", "doctor@clinic.example"},
		{"prvs==doctor@clinic.example", "doctor@clinic.example"},
		{"btv1==x==doctor@clinic.example", "doctor@clinic.example"},
		{"btv1==1234abcdef=doctor@clinic.example", "doctor@clinic.example"},
		{"btv1==doctor==password@clinic.example", "doctor@clinic.example"},
		{"msprvs1=doctor=x@clinic.example", "doctor@clinic.example"},
		{"SRS0=clinic.example=doctor@fwd.example", "doctor@clinic.example"},
		{"SRS0=TT=clinic.example=doctor@fwd.example", "doctor@clinic.example"},
		{"SRS0=HHH=TT=XX=clinic.example=doctor@fwd.example", "doctor@clinic.example"},
		{"SRS0==TT=clinic.example=doctor@fwd.example", "doctor@clinic.example"},
		{"SRS1=HHH=clinic.example=doctor@fwd.example", "doctor@clinic.example"},
		{"SRS=HHH=TT=stranger.example=joe@clinic.example", ""},
		{"SRS0=HHH=TT=stranger=joe@clinic.example", "SRS0=HHH=TT=stranger=joe@clinic.example"},
		{"SRS0=HHH=TT=@clinic.example", "SRS0=HHH=TT=@clinic.example"},
		{"SRS0=@clinic.example", "SRS0=@clinic.example"},
		{"doctor+SRS=HHH=TT=stranger.example=joe@clinic.example", "joe@stranger.example"},
	} {
		found, err := Forms{}.Senders(MustAddress(c.address))
		if err != nil {
			t.Errorf("%s: %v", c.address, err)
			continue
		}
		if c.inside == "" { // "SRS=" is a form of its own
			if len(found) != 1 || found[0].String() != "joe@stranger.example" {
				t.Errorf("%s: %v", c.address, found)
			}
			continue
		}
		for _, want := range []string{c.address, c.inside} {
			if !slices.Contains(found, MustAddress(want)) {
				t.Errorf("%s: %v, want %s among them", c.address, found, want)
			}
		}
	}
	if found, err := (Forms{}).Senders(MustAddress(strings.Repeat("prvs=1234abcdef=", 50) + "doctor@clinic.example")); err == nil {
		t.Errorf("wrapped 50 times: %v", found)
	}
}

func TestFormsBases(t *testing.T) {
	for _, c := range []struct{ delimiter, address, want string }{
		{"", "doctor@clinic.example", ""},
		{"", "Doctor+news@clinic.example", "doctor@clinic.example"},
		{"", "+news@clinic.example", ""},
		{"", "jean-paul@clinic.example", ""},
		{"-", "jean-paul@clinic.example", "jean@clinic.example"},
		{"-_", "a_b-c+d@clinic.example", "a_b-c@clinic.example a_b@clinic.example a@clinic.example"},
		{"", "owner-list+user=other.example@clinic.example", "owner-list@clinic.example owner@clinic.example"},
		{"", "bounces-user=other.example@clinic.example", "bounces@clinic.example"},
		{"", "list-bounces-12-user=other.example@clinic.example", "list-bounces-12@clinic.example list-bounces@clinic.example list@clinic.example"},
		{"", "bounces-user=nodomain@clinic.example", ""},
	} {
		found := Forms{Delimiter: c.delimiter}.Bases(MustAddress(c.address))
		if got := strings.Trim(fmt.Sprint(found), "[]"); got != c.want {
			t.Errorf("%s by %q: %s, want %s", c.address, c.delimiter, got, c.want)
		}
	}
	for _, c := range []struct {
		f, g, want Forms
	}{
		{Forms{}, Forms{Delimiter: "+"}, Forms{}},
		{Forms{Delimiter: "-+"}, Forms{Delimiter: "+_", SRS: SRSMatch}, Forms{Delimiter: "-_", SRS: SRSMatch}},
		{Forms{SRS: SRSIgnore}, Forms{SRS: SRSIgnore}, Forms{}},
	} {
		for _, got := range []Forms{c.f.Join(c.g).Normal(), c.g.Join(c.f).Normal()} {
			if got != c.want {
				t.Errorf("%+v and %+v: %+v, want %+v", c.f, c.g, got, c.want)
			}
		}
	}
}

func FuzzForms(f *testing.F) {
	f.Add("SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example")
	f.Add("prvs=1234abcdef=doctor@clinic.example")
	f.Add("btv1==1234abcdef==doctor@clinic.example")
	f.Add("list-bounces+user=domain.example@clinic.example")
	f.Add("SRS0=" + strings.Repeat("a.b=", 300) + "@c.example")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParsePath(s)
		if err != nil {
			return
		}
		strict, errStrict := Forms{SRS: SRSMatch}.Senders(a)
		found, err := Forms{}.Senders(a)
		if err != nil {
			if errStrict == nil {
				t.Errorf("%q: read by srs = match alone", s)
			}
			return
		}
		if len(found) == 0 {
			t.Errorf("%q: nobody's", s)
		}
		for _, o := range found {
			if o.Local == "" && !a.IsNull() {
				t.Errorf("%q: %v", s, o)
			}
			if errStrict == nil && !slices.ContainsFunc(strict, func(b Address) bool { return b.Fold() == o.Fold() }) {
				t.Errorf("%q: %v only without srs = match", s, o)
			}
		}
		for _, delimiter := range []string{"", "-", "_=-"} {
			last := len(a.Fold().Local) + 1
			for _, b := range (Forms{Delimiter: delimiter}).Bases(a.Fold()) {
				if len(b.Local) >= last || !strings.HasPrefix(a.Fold().Local, b.Local) || b.Local == "" {
					t.Errorf("%q by %q: %v", s, delimiter, b)
				}
				last = len(b.Local)
			}
		}
	})
}
