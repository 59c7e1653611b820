package sendmail

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/contract"
)

// The rules are written in Sendmail's language, so they spell by themselves what
// the daemon and the milter spell by package contract.
func TestContract(t *testing.T) {
	rules := configLines + readRules + readAtOnceRules + writtenRules + serverRules + rcptRules + answerRules
	question := contract.Question{Verify: "$3", Fingerprint: "$&{cert_fp}", Server: "$&{server_name}", Hop: "$&h", Tag: "$1",
		Sender: "$&f", Written: "$&g", Host: "$&j", Reporter: "$&n", Recipient: "$4"}.Key()
	for _, want := range []string{
		fmt.Sprintf("$(%s %s $:", contract.MapTLSRcpt, question),
		fmt.Sprintf("\nK%s socket ", contract.MapTLSRcpt),
		fmt.Sprintf("\nK%s socket ", contract.MapReport),
		fmt.Sprintf("$(%s a.report", contract.MapReport),
		fmt.Sprintf("\nR<$- $-> %s\t", contract.Pass),
		fmt.Sprintf("\nR<$- CLEAR> %s\t", contract.Defer), fmt.Sprintf("\nR<$- TLS> %s\t", contract.Defer),
		fmt.Sprintf("\nR<$- CLEAR> %s\t", contract.Reject), fmt.Sprintf("\nR<$- TLS> %s\t", contract.Reject),
		fmt.Sprintf("\nRREPORT %s\t", contract.Free),
		fmt.Sprintf("\nC{TlsonlyNever}%s %s\n", contract.TagEncrypt, contract.TagName),
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("the rules don't have %q", want)
		}
	}
	prefix := strings.TrimSuffix(contract.TagPrefix, ".")
	known := []string{string(contract.TagAsk), string(contract.TagEncrypt)} // any other asks for the most
	var read []string
	for _, m := range regexp.MustCompile(`(?m)^R<free> \$\* \$\| `+prefix+` \. (\w+) \. `).FindAllStringSubmatch(rules, -1) {
		read = append(read, m[1])
	}
	if !slices.Equal(read, known) {
		t.Errorf("the rules read the tags %q, want %q", read, known)
	}
	if most := fmt.Sprintf("R<free> $* $| %s . $* $| $*\t\t$: <%s> ", prefix, contract.TagName); !strings.Contains(rules, most) {
		t.Errorf("a tag that isn't known doesn't ask for the most: no %q", most)
	}
	if free := fmt.Sprintf("$: <%s> $1 $| $3\n", contract.TagFree); !strings.Contains(rules, free) {
		t.Errorf("a message without a tag isn't %q", free)
	}
	for _, m := range regexp.MustCompile(`[A-Z]{4,} \. `).FindAllString(rules, -1) {
		if m != prefix+" . " {
			t.Errorf("the rules read %q, which isn't the tag's prefix", m)
		}
	}
}
