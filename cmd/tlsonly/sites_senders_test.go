package main

import "testing"

// Panels that give each sender a client with an address of its own.
func TestMTASitesSenders(t *testing.T) {
	long(t)
	panel := func(name, table, client string) deployment {
		return deployment{
			name: name, source: "127.0.0.10", signers: []string{"127.0.0.1:8891"}, warnings: []string{"milter-other"},
			files:  map[string]string{table: doctor + " " + client + ":\n@clinic.example " + client + ":\n"},
			hashes: []string{table},
			main: debianMain + `
smtpd_milters = inet:localhost:8891
non_smtpd_milters = inet:localhost:8891
milter_default_action = accept
sender_dependent_default_transport_maps = hash:DIR/` + table + "\n",
			master: "\n" + client + " unix - - n - - smtp -o smtp_bind_address=127.0.0.10 -o smtp_bind_address6= -o smtp_helo_name=clinic.example\n",
		}
	}
	runSites(t, []deployment{
		panel("Plesk", "sdd_transport_maps", "plesk-192.0.2.10-"),
		panel("Virtualmin", "dependent", "smtp-167"),
		panel("aaPanel", "sender_transport", "sender_clinic"),
	})
}
