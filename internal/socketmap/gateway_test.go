package socketmap

import (
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// The gateway is known by its certificate, whatever the transport's level; nobody
// else has that policy, and without a gateway nobody has.
func TestGateway(t *testing.T) {
	const want = "OK fingerprint protocols=>=TLSv1.2 match=AB:CD"
	on := server(t, Config{Gateway: addr.MustDestination("[127.0.0.1]:8692"), Fingerprint: "AB:CD"}, rule(policy.LevelEncrypt, "@clinic.example", ""))
	off := server(t, Config{}, rule(policy.LevelEncrypt, "@clinic.example", ""))
	for question, is := range map[string]bool{
		"forced [127.0.0.1]:8692": true, "forced1 [127.0.0.1]:8692": true, "forced1/secure [127.0.0.1]:8692": true,
		"forced1 [127.0.0.1]:8693": false, "forced1 [127.0.0.2]:8692": false, "forced1 127.0.0.1": false, "forced1 [127.0.0.1]": false,
		"forced1 good.example": false, "policy [127.0.0.1]:8692": false,
	} {
		if got := string(on.reply(nil, []byte(question))); (got == want) != is {
			t.Errorf("%s: %s", question, got)
		}
		if got := string(off.reply(nil, []byte(question))); got == want {
			t.Errorf("%s without a gateway: %s", question, got)
		}
	}
}
