package main

import (
	"net"
	"strings"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/testnet"
)

// changer is a milter that changes the sender at the end of the message, as
// those for SRS and BATV do.
type changer struct {
	gomilter.NoOpMilter
	to string
}

func (c changer) RcptTo(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (c changer) EndOfMessage(m gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespAccept, m.ChangeFrom(c.to, "")
}

func startChanger(t *testing.T, to string) (endpoint string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return changer{to: to} }), gomilter.WithAction(gomilter.OptChangeFrom))
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	return "inet:" + port + "@127.0.0.1"
}

// What a milter before ours made of the sender stays, and the message is held
// all the same.
func TestMTAHolesSendmailOtherMilter(t *testing.T) {
	for _, to := range []string{"SRS0=abcd=XY=clinic.example=doctor@other.example", "prvs=1234@clinic.example", ""} {
		c := sendmailCase{name: "<" + to + ">", mc: func(dir string) []string {
			return append(queueOnly(dir), "INPUT_MAIL_FILTER(`changer', `S="+startChanger(t, to)+", F=T, T=R:30s')dnl")
		}, send: func(w *wire) {
			w.message(doctor, []string{"u@good.example"}, nil)
			w.fault("good.example", testnet.NoSTARTTLS)
		}, check: func(w *wire) {
			refused("u@good.example")(w)
			w.fault("good.example", testnet.NoFault)
			w.anyRun()
			w.delivered("good.example", 1)
			for _, m := range w.world.Messages("good.example") {
				if m.From != to {
					w.t.Errorf("the sender is %q, want %q", m.From, to)
				}
			}
		}}
		runSendmailReports(t, []sendmailCase{c})
	}
}
