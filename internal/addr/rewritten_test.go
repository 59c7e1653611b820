package addr

import (
	"slices"
	"strings"
	"testing"
)

func TestOriginals(t *testing.T) {
	for _, c := range []struct{ address, want string }{
		{"SRS0=HHH=TT=clinic.example=doctor@other.example", "doctor@clinic.example"},
		{"srs0=hhh=tt=Clinic.Example=Doctor@other.example", "Doctor@clinic.example"},
		{"SRS0+HHH=TT=clinic.example=doctor@other.example", "doctor@clinic.example"},
		{"SRS0-H/H+=TT=clinic.example=doctor@other.example", "doctor@clinic.example"},
		{"SRS0=HHH=TT=clinic.example=a=b@other.example", "a=b@clinic.example"},
		{"SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example", "doctor@clinic.example"},
		{"SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example", "SRS0=HHH=TT=clinic.example=doctor@first.example"},
		{"SRS1+HHH=first.example=+HHH=TT=clinic.example=doctor@second.example", "doctor@clinic.example"},
		{"bounces+SRS=HHH=TT=clinic.example=doctor@other.example", "doctor@clinic.example"},
		{"prvs=1234abcdef=doctor@clinic.example", "doctor@clinic.example"},
		{"PRVS=1234abcdef=doctor@clinic.example", "doctor@clinic.example"},
		{"prvs=doctor/1234abcdef@clinic.example", "doctor@clinic.example"},
		{"btv1==1234abcdef==doctor@clinic.example", "doctor@clinic.example"},
		{"msprvs1=1234abcdef=doctor@clinic.example", "doctor@clinic.example"},
		{"prvs=1234abcdef=a=b@clinic.example", "a=b@clinic.example"},
		{"SRS0=HHH=TT=clinic.example=prvs=1234abcdef=doctor@other.example", "doctor@clinic.example"},
		{"prvs=1234abcdef=SRS0=HHH=TT=clinic.example=doctor@other.example", "doctor@clinic.example"},
	} {
		found := MustAddress(c.address).Originals()
		if !slices.Contains(found, MustAddress(c.want)) {
			t.Errorf("%s: %v, want %s among them", c.address, found, c.want)
		}
	}
	for _, address := range []string{"<>", "doctor@clinic.example", "srs@other.example", "SRS0@other.example", "SRS0=@other.example",
		"SRS0=HHH=TT=@other.example", "SRS2=HHH=TT=clinic.example=doctor@other.example", "prvs=@other.example", "prvs=doctor@other.example",
		"users=a=b.example=c@other.example", "xsrs0=a=b.example=c@other.example"} {
		if found := MustAddress(address).Originals(); len(found) > 0 {
			t.Errorf("%s: %v, want none", address, found)
		}
	}
}

func FuzzOriginals(f *testing.F) {
	f.Add("SRS1=HHH=first.example==HHH=TT=clinic.example=doctor@second.example")
	f.Add("prvs=1234abcdef=doctor@clinic.example")
	f.Add("SRS0=" + strings.Repeat("a.b=", 300) + "@c.example")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParsePath(s)
		if err != nil {
			return
		}
		for _, o := range a.Originals() {
			if o.Local == "" || o.Fold() == a.Fold() {
				t.Errorf("%q: %v", s, o)
			}
		}
	})
}
