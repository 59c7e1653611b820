package milter

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/rules"
)

// nothingDemanded is a ledger of a day on which nothing has been accepted yet.
type nothingDemanded struct{}

func (nothingDemanded) Pinned(addr.Destination) bool { return false }
func (nothingDemanded) Demanded(addr.Destination) (policy.Demand, bool) {
	return policy.Demand{}, false
}

// asker asks a socketmap server as Postfix does.
type asker struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func newAsker(t *testing.T, d func() *rules.Delivery) asker {
	t.Helper()
	s, err := socketmap.New(socketmap.Config{Rules: d, Ledger: nothingDemanded{}, Transports: 100})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := s.Shutdown(t.Context()); err == nil {
			<-served
		}
	})
	return asker{t, c, bufio.NewReader(c)}
}

func (a asker) ask(question string) string {
	a.t.Helper()
	if _, err := fmt.Fprintf(a.c, "%d:%s,", len(question), question); err != nil {
		a.t.Fatal(err)
	}
	length, err := a.r.ReadString(':')
	if err != nil {
		a.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, ":"))
	if err != nil {
		a.t.Fatal(err)
	}
	answer := make([]byte, n+1)
	if _, err := io.ReadFull(a.r, answer); err != nil {
		a.t.Fatal(err)
	}
	return string(answer[:n])
}

// bound returns whether Postfix would hold mail of a sender for a domain to TLS.
func (a asker) bound(from, domain string) bool {
	a.t.Helper()
	transport, ok := strings.CutPrefix(a.ask("sender100 "+from), "OK tlsonly")
	if !ok {
		return strings.HasPrefix(a.ask("policy "+domain), "OK ")
	}
	level, ok := strings.CutPrefix(a.ask("forced"+strings.TrimSuffix(transport, ":")+" "+domain), "OK ")
	return !ok || !strings.HasPrefix(level, "may") && !strings.HasPrefix(level, "none")
}

// Whatever has been put around a sender, the milter and delivery say the same of
// whose mail it is: what one of them binds the other does.
func TestFormsAgree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	local := func() string {
		return pick("doctor", "nurse", "list", "jean", "jean-paul", "doctor+news", "doctor-news", "bounces", "bounces-u=far.example", "list-bounces+u=far.example", "a=b")
	}
	domain := func() string {
		return pick("clinic.example", "ward.clinic.example", "lawyer.example", "stranger.example", "fwd.example")
	}
	wrapped := func(depth int) (string, string) {
		l, d := local(), domain()
		for range random.IntN(depth + 1) {
			switch random.IntN(10) {
			case 0:
				l = "prvs=1234abcdef=" + l
			case 1:
				l = "prvs=" + l + "=1234abcdef"
			case 2:
				l = "btv1==059ab0cf7e4==" + l
			case 3:
				l, d = "SRS0"+pick("=", "+", "-")+"HHH=TT="+d+"="+l, domain()
			case 4:
				l, d = "SRS1=HHH="+d+"==HHH=TT="+domain()+"="+l, domain()
			case 5:
				l = "prvs=" + l // malformed from here on
			case 6:
				l, d = "SRS0=HHH="+d+"="+l, domain()
			case 7:
				l, d = "joe+SRS=HHH=TT="+d+"="+l, domain()
			case 8:
				l = "btv1==" + l + "=x"
			default:
				l += pick("+x", "-x", "_x")
			}
		}
		return l, d
	}
	boundBoth, doubtful := 0, 0
	for range 40 {
		var rs []*rules.Rule
		for i := range 1 + random.IntN(5) {
			r := &rules.Rule{Name: fmt.Sprint("r", i), Level: policy.LevelEncrypt, Mode: policy.Enforce}
			for range 1 + random.IntN(2) {
				r.From = append(r.From, addr.MustPattern(pick("@clinic.example", "@.clinic.example", "@lawyer.example",
					local()+"@clinic.example", local()+"@lawyer.example", local()+"@ward.clinic.example")))
			}
			if random.IntN(3) == 0 {
				r.To = []addr.Pattern{addr.MustPattern(pick("@far.example", "@partner.example"))}
				r.Level = policy.Level(pick("may", "encrypt"))
			}
			if random.IntN(6) == 0 {
				r.Mode = policy.Observe
			}
			rs = append(rs, r)
		}
		forms := addr.Forms{Delimiter: pick("", "-", "_-"), SRS: addr.SRS(pick("ignore", "match"))}
		set := rules.New(rs).With(forms)
		delivery := rules.Alone(set)
		mta := newAsker(t, func() *rules.Delivery { return delivery })
		s := &session{server: &Server{}}
		for range 60 {
			l, d := wrapped(3)
			sender := addr.Address{Local: l, Domain: addr.MustDomain(d)}
			whose, err := s.whose(set, sender.String(), sender, modifier{})
			if err != nil {
				continue // refused
			}
			now := time.Now()
			c := delivery.Doubt(set.SenderOf(sender, whose, "", now), whose)
			classes := map[int]bool{}
			for _, a := range whose {
				classes[delivery.Class(a, now)] = true
			}
			delete(classes, 0)
			for _, to := range []string{"far.example", "partner.example", "other.example"} {
				rule := c.Match(addr.MustAddress("u@" + to))
				atRCPT := rule != nil && rule.Enforcing()
				if atDelivery := mta.bound(sender.String(), to); atRCPT != atDelivery {
					var all []string
					for _, r := range rs {
						all = append(all, fmt.Sprint(r.From, " to ", r.To, " ", r.Level, " ", r.Mode))
					}
					t.Fatalf("seed %d: %s (whose: %v) to %s, forms %+v: bound at RCPT %t, at delivery %t; rules:\n%s",
						seed, sender, whose, to, forms, atRCPT, atDelivery, strings.Join(all, "\n"))
				}
				if atRCPT {
					boundBoth++
				}
				if len(classes) > 1 {
					doubtful++
				}
			}
		}
	}
	if boundBoth < 200 || doubtful == 0 {
		t.Errorf("seed %d: %d bound, %d in doubt: the test shows little", seed, boundBoth, doubtful)
	}
}
