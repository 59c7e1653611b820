package received

import (
	"errors"
	"strings"
	"testing"

	"tlsonly/internal/policy"
)

// Lines as the servers write them, names and addresses being those for documentation.
var lines = []struct {
	server   string
	line     string
	from     string
	address  string
	by       string
	security Security
	version  policy.Version
	cipher   string
	bits     int
}{
	{"Postfix", "from mail.a.example (mail.a.example [192.0.2.1])\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)\r\n\t key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256)\r\n\t(No client certificate requested)\r\n\tby mx.b.example (Postfix) with ESMTPS id 4XyZab1234z9k\r\n\tfor <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0100 (CET)",
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 256},
	{"Postfix, old TLS", "from a.example (unknown [IPv6:2001:db8::1]) (using TLSv1 with cipher AES128-SHA (128/128 bits)) (Client did not present a certificate) by b.example (Postfix) with ESMTPS id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "2001:db8::1", "b.example", Encrypted, policy.TLS10, "AES128-SHA", 128},
	{"Postfix, comment not written", "from a.example (a.example [192.0.2.1]) by b.example (Postfix) with ESMTPSA id 1A2B3C4D for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Encrypted, 0, "", 0},
	{"Postfix, in the clear", "from a.example (a.example [192.0.2.1]) by b.example (Postfix) with ESMTP id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"Postfix, SMTPUTF8", "from a.example (a.example [192.0.2.1]) by b.example (Postfix) with UTF8SMTPS id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Encrypted, 0, "", 0},
	{"Postfix, SMTPUTF8 in the clear", "from a.example (a.example [192.0.2.1]) by b.example (Postfix) with UTF8SMTP id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"Postfix, sendmail command", "by b.example (Postfix, from userid 1000) id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000 (UTC)",
		"", "", "b.example", Local, 0, "", 0},
	{"Postfix, content filter", "from localhost (localhost [127.0.0.1]) by b.example (Postfix) with ESMTP id 1A2B3C4D; Mon, 23 Nov 2026 17:00:00 +0000",
		"localhost", "127.0.0.1", "b.example", Local, 0, "", 0},
	{"amavis", "from b.example ([127.0.0.1]) by localhost (b.example [127.0.0.1]) (amavis, port 10024) with ESMTP id abc for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000",
		"b.example", "127.0.0.1", "localhost", Local, 0, "", 0},
	{"Exim, tls clause", "from mail.a.example ([192.0.2.1]) by b.example with esmtps (TLS1.3) tls TLS_AES_256_GCM_SHA384 (Exim 4.96) (envelope-from <s@a.example>) id 1pABCD-000123-AB for u@b.example; Mon, 23 Nov 2026 17:00:00 +0000",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 0},
	{"Exim, before 4.93", "from [192.0.2.1] (port=4321 helo=mail.a.example) by b.example with esmtpsa (TLSv1.2:ECDHE-RSA-AES256-GCM-SHA384:256) (Exim 4.89) (envelope-from <s@a.example>) id 1pABCD-000123-AB; Mon, 23 Nov 2026 17:00:00 +0000",
		"[192.0.2.1]", "192.0.2.1", "b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Exim, HELO that lies", "from mail.a.example ([192.0.2.1]:4321 helo=[127.0.0.1]) by b.example with esmtp (Exim 4.96) id 1pABCD-000123-AB; Mon, 23 Nov 2026 17:00:00 +0000",
		"mail.a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"Exim, local", "from alice by b.example with local (Exim 4.96) (envelope-from <alice@b.example>) id 1pABCD-000123-AB; Mon, 23 Nov 2026 17:00:00 +0000",
		"alice", "", "b.example", Local, 0, "", 0},
	{"Exim, SMTPUTF8", "from a.example ([192.0.2.1]) by b.example with utf8esmtps id 1pABCD-000123-AB; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Encrypted, 0, "", 0},
	{"Sendmail", "from mail.a.example (mail.a.example [192.0.2.1] (may be forged))\n\tby b.example (8.17.1/8.17.1) with ESMTPS id 6ANHQUPs000341\n\t(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 bits=256 verify=OK)\n\tfor <u@b.example>; Mon, 23 Nov 2026 17:00:00 GMT",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 256},
	{"Sendmail, without RFC 3848", "from a.example (a.example [192.0.2.1]) by b.example (8.12.5/8.12.3) with ESMTP id g75FlHR4038187 (version=TLSv1/SSLv3 cipher=EDH-RSA-DES-CBC3-SHA bits=168 verify=NO); Fri, 13 Dec 2002 08:47:36 -0700 (PDT)",
		"a.example", "192.0.2.1", "b.example", Encrypted, policy.TLS10, "EDH-RSA-DES-CBC3-SHA", 168},
	{"Sendmail, submission program", "(from alice@localhost) by b.example (8.17.1/8.17.1/Submit) id 6ANHQUPs000341; Mon, 23 Nov 2026 17:00:00 GMT",
		"", "", "b.example", Local, 0, "", 0},
	{"Sendmail, to its own daemon", "from b.example (localhost [127.0.0.1]) by b.example (8.17.1/8.17.1) with ESMTP id 6ANHQUPs000341; Mon, 23 Nov 2026 17:00:00 GMT",
		"b.example", "127.0.0.1", "b.example", Local, 0, "", 0},
	{"Exchange Online", "from AB1PR01MB1234.eurprd01.prod.example (2603:10a6::1) by CD2PR01MB5678.eurprd01.prod.example (2603:10a6::2) with Microsoft SMTP Server (version=TLS1_2, cipher=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384) id 15.20.8158.12; Mon, 23 Nov 2026 17:00:00 +0000",
		"AB1PR01MB1234.eurprd01.prod.example", "2603:10a6::1", "CD2PR01MB5678.eurprd01.prod.example", Encrypted, policy.TLS12, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0},
	{"Exchange 2013", "from EX1.a.example (192.0.2.1) by EX2.a.example (192.0.2.2) with Microsoft SMTP Server (TLS) id 15.0.1497.2; Mon, 23 Nov 2026 17:00:00 +0000",
		"EX1.a.example", "192.0.2.1", "EX2.a.example", Encrypted, 0, "", 0},
	{"Exchange 2007", "from EX1.a.example (192.0.2.1) by EX2.a.example (192.0.2.2) with Microsoft SMTP Server id 8.1.240.5; Mon, 23 Nov 2026 17:00:00 +0000",
		"EX1.a.example", "192.0.2.1", "EX2.a.example", Unknown, 0, "", 0},
	{"Exchange, in the mailbox server", "from EX1.a.example ([fe80::1]) by EX1.a.example ([fe80::1%12]) with mapi id 15.20.8158.012; Mon, 23 Nov 2026 17:00:00 +0000",
		"EX1.a.example", "fe80::1", "EX1.a.example", Local, 0, "", 0},
	{"Gmail", "from mail.a.example (mail.a.example. [192.0.2.1]) by mx.google.example with ESMTPS id 5b1f17b1804b1-1si5.2026.11.23 for <u@b.example> (version=TLS1_3 cipher=TLS_AES_128_GCM_SHA256 bits=128/128); Mon, 23 Nov 2026 09:00:00 -0800 (PST)",
		"mail.a.example", "192.0.2.1", "mx.google.example", Encrypted, policy.TLS13, "TLS_AES_128_GCM_SHA256", 128},
	{"Gmail, inside", "by 2002:a05:6a10:1234:b0:1 with SMTP id x1csp123456; Mon, 23 Nov 2026 09:00:00 -0800 (PST)",
		"", "", "2002:a05:6a10:1234:b0:1", Unknown, 0, "", 0},
	{"qmail", "from unknown (HELO mail.a.example) (192.0.2.1) by b.example with SMTP; 23 Nov 2026 17:00:00 -0000",
		"unknown", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"qmail with TLS", "from mail.a.example (HELO mail.a.example) (192.0.2.1) by b.example with (ECDHE-RSA-AES256-GCM-SHA384 encrypted) ESMTPS; 23 Nov 2026 17:00:00 -0000",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, 0, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"qmail, HELO that lies", "from unknown (HELO 127.0.0.1) (192.0.2.1) by b.example with SMTP; 23 Nov 2026 17:00:00 -0000",
		"unknown", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"qmail, a user", "(qmail 12345 invoked by uid 1000); 23 Nov 2026 17:00:00 -0000", "", "", "", Local, 0, "", 0},
	{"qmail, its second line", "(qmail 12345 invoked from network); 23 Nov 2026 17:00:00 -0000", "", "", "", Local, 0, "", 0},
	{"OpenSMTPD", "from mail.a.example (mail.a.example [192.0.2.1]) by b.example (OpenSMTPD) with ESMTPS id 1a2b3c4d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO) for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000 (UTC)",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 256},
	{"Haraka", "from mail.a.example (mail.a.example [192.0.2.1]) by b.example (Haraka/3.0.3) with ESMTPS id 0A1B2C3D.1 envelope-from <s@a.example> tls TLS_AES_256_GCM_SHA384; Mon, 23 Nov 2026 17:00:00 +0000",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, 0, "TLS_AES_256_GCM_SHA384", 0},
	{"Courier", "from mail.a.example (mail.a.example [192.0.2.1]) (TLS: TLSv1.2,256bits,ECDHE-RSA-AES256-GCM-SHA384) by b.example with ESMTPS; Mon, 23 Nov 2026 17:00:00 +0000; id 0000000000012345.65A1",
		"mail.a.example", "192.0.2.1", "b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Dovecot, on the machine", "from b.example by b.example with LMTP id abcdef (envelope-from <s@a.example>) for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000",
		"b.example", "", "b.example", Local, 0, "", 0},
	{"Dovecot, from another machine", "from mx.b.example ([192.0.2.7]) by store.b.example with LMTP id abcdef; Mon, 23 Nov 2026 17:00:00 +0000",
		"mx.b.example", "192.0.2.7", "store.b.example", Clear, 0, "", 0},
	{"Dovecot, with TLS", "from mx.b.example ([192.0.2.7]) by store.b.example with LMTPS id abcdef; Mon, 23 Nov 2026 17:00:00 +0000",
		"mx.b.example", "192.0.2.7", "store.b.example", Encrypted, 0, "", 0},
	{"RFC 8314's form", "from a.example ([192.0.2.1]) by b.example with ESMTPSA id 1 tls TLS_DHE_RSA_WITH_AES_128_CBC_SHA group 14 for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Encrypted, 0, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", 0},
	{"webmail", "from [192.0.2.1] by webmail.b.example with HTTP (HTTP/1.1 POST); Mon, 23 Nov 2026 17:00:00 +0000",
		"[192.0.2.1]", "192.0.2.1", "webmail.b.example", Unknown, 0, "", 0},
	{"fetchmail", "from pop.a.example [192.0.2.1] by localhost with POP3 (fetchmail-6.4.37) for <u@localhost> (single-drop); Mon, 23 Nov 2026 17:00:00 +0000 (UTC)",
		"pop.a.example", "", "localhost", Unknown, 0, "", 0},
	{"no keyword", "from a.example ([192.0.2.1]) by b.example; Mon, 23 Nov 2026 17:00:00 +0000", "a.example", "192.0.2.1", "b.example", Unknown, 0, "", 0},
	{"a name that is a keyword", "from with (with [192.0.2.1]) by by with SMTP id id; Mon, 23 Nov 2026 17:00:00 +0000", "with", "192.0.2.1", "by", Clear, 0, "", 0},
	{"a keyword twice", "from a.example ([192.0.2.1]) by b.example with ESMTP id 1 from c.example by d.example with ESMTPS; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"keywords in a nested comment", "from a.example (a [192.0.2.1] (x) by d.example with ESMTPS) by b.example with ESMTP id 1; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"TLS that isn't", "from a.example (a.example [192.0.2.1]) by b.example with ESMTP id 1 (version=NONE cipher=NONE bits=0); Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Clear, 0, "", 0},
	{"a keyword that only looks like one", "from a.example (a.example [192.0.2.1]) by b.example with ESMTP\u017f id 1; Mon, 23 Nov 2026 17:00:00 +0000",
		"a.example", "192.0.2.1", "b.example", Unknown, 0, "", 0},
	{"Cisco ESA (IronPort)", `from mail.a.example ([192.0.2.1]) by mx.b.example with ESMTP/TLS/ECDHE-RSA-AES256-GCM-SHA384; 23 Nov 2026 09:00:00 -0800`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"Cisco ESA, TLS 1.3", `from mail.a.example ([192.0.2.1]) by mx.b.example with ESMTP/TLS/TLS_AES_256_GCM_SHA384; 23 Nov 2026 09:00:00 -0800`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "TLS_AES_256_GCM_SHA384", 0},
	{"Cisco ESA, an old suite", `from unknown (HELO mail.a.example) ([192.0.2.1]) by mx.b.example with SMTP/TLS/AES128-SHA; 23 Nov 2026 17:00:00 -0400`,
		"unknown", "192.0.2.1", "mx.b.example", Encrypted, 0, "AES128-SHA", 0},
	{"Cisco ESA, in the clear", `from mail.a.example ([192.0.2.1]) by mx.b.example with ESMTP; 23 Nov 2026 09:00:00 -0800`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"Symantec MessageLabs", `from unknown (HELO mail.a.example) (192.0.2.1) by mx.b.example with ECDHE-RSA-AES256-GCM-SHA384 encrypted SMTP; 23 Nov 2026 17:00:00 -0000`,
		"unknown", "192.0.2.1", "mx.b.example", Encrypted, 0, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"Symantec MessageLabs, in the clear", `from unknown (HELO mail.a.example) (192.0.2.1) by mx.b.example with SMTP; 23 Nov 2026 17:00:00 -0000`,
		"unknown", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"Symantec Mail Security", `from mail.a.example (Unknown_Domain [192.0.2.1]) by mx.b.example (Symantec Mail Security) with SMTP id 3A.06.31450.72929015; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"Mimecast", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP with STARTTLS (version=TLSv1.3, cipher=TLS_AES_256_GCM_SHA384) id us-mta-1-x-1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 0},
	{"Mimecast, without the comment", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP with STARTTLS id us-mta-1-x-1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "", 0},
	{"Trustwave MailMarshal", `from mail.a.example (Not Verified[192.0.2.1]) by mx.b.example (using TLS: TLSv1.2, DES-CBC3-SHA) id <B5e9e3a1b0004>; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "DES-CBC3-SHA", 0},
	{"Trustwave MailMarshal, not told", `from mail.a.example (Not Verified[192.0.2.1]) by mx.b.example with MailMarshal (v6,7,2,8378) id <B4d653d270000>; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Unknown, 0, "", 0},
	{"MDaemon", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Cipher TLSv1:RC4-MD5:128) (MDaemon PRO v10.1.1) with ESMTP id md50001454076.msg; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS10, "RC4-MD5", 128},
	{"Exim 3", `from mail.a.example ([192.0.2.1] helo=x) by mx.b.example with asmtp (Cipher TLSv1:DES-CBC3-SHA:168) (Exim 3.35 #1 (Debian)) id 1BF1At-0004oK-00; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS10, "DES-CBC3-SHA", 168},
	{"Proofpoint", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (8.16.0.42/8.16.0.42) with ESMTP id 2wxyz-1 (version=TLSv1.2 cipher=ECDHE-RSA-AES256-GCM-SHA384 bits=256 verify=NOT); Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Barracuda", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP id AbCdEf (version=TLSv1.2 cipher=ECDHE-RSA-AES256-GCM-SHA384 bits=256 verify=NO) for <u@b.example>; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"FortiMail", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP id 0ANH00-0ANH01 (version=TLSv1.2 cipher=ECDHE-RSA-AES256-GCM-SHA384 bits=256 verify=OK); Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Kerio Connect", `from mail.a.example ([192.0.2.1]) (authenticated user list@a.example) by mx.b.example (Kerio Connect 9.2.12 patch 1) with ESMTPSA (using TLSv1.2 with cipher ECDHE-RSA-AES256-GCM-SHA384 (256 bits)); Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Kerio Connect, in the clear", `from mail.a.example ([192.0.2.1]) (authenticated user list@a.example) by mx.b.example (Kerio Connect 9.4.2) with ESMTPA; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"CommuniGate Pro", `from [192.0.2.1] (account u@b.example HELO [10.0.0.1]) by mx.b.example (CommuniGate Pro SMTP 7.1.1) with ESMTPS id 11859449; Mon, 23 Nov 2026 17:00:00 +0000`,
		"[192.0.2.1]", "192.0.2.1", "mx.b.example", Encrypted, 0, "", 0},
	{"Halon", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Halon) with ESMTPS id c4c43c99-2a9d-11f0-9ffb-bf95429c2676; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "", 0},
	{"Strato", `from mail.a.example by mx.b.example (RZmta 47.27.2 AUTH) with ESMTPSA id j0415bx588wcO3l (using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)) (Client did not present a certificate); Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "", "mx.b.example", Encrypted, policy.TLS13, "TLS_AES_256_GCM_SHA384", 256},
	{"Yandex, after the date", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (nwsmtp/Yandex) with ESMTP id abc; Mon, 23 Nov 2026 17:00:00 +0000 (using TLSv1.2 with cipher ECDHE-RSA-AES256-GCM-SHA384 (256/256 bits)) (Client certificate not present)`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 256},
	{"Domino", `from mail.a.example ([192.0.2.1]) by mx.b.example (HCL Domino Release 14.0FP4) with ESMTP id 2026112317000040-8901; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"GroupWise", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with Novell_GroupWise; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Unknown, 0, "", 0},
	{"Yahoo", `from 192.0.2.1 (EHLO mail.a.example) (192.0.2.1) by mx.b.example with SMTPs (version=TLS1_2 cipher=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256); Mon, 23 Nov 2026 17:00:00 +0000`,
		"192.0.2.1", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0},
	{"Amazon SES", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with SMTP (SimpleEmailService-2.1) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"McAfee", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with smtp (TLS: TLSv1/SSLv3,256bits,AES256-SHA) id 1234_5678; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS10, "AES256-SHA", 256},
	{"qpsmtpd", `from Unknown (HELO mail.a.example) (192.0.2.1) by mx.b.example (qpsmtpd/0.94) with (ECDHE-RSA-AES256-GCM-SHA384 encrypted) SMTP; Mon, 23 Nov 2026 17:00:00 +0000`,
		"Unknown", "192.0.2.1", "mx.b.example", Encrypted, 0, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"a version in words", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Gateway 1.0) with ESMTP (TLS 1.2, AES256-GCM-SHA384) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "AES256-GCM-SHA384", 0},
	{"a suite alone", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (secured by ECDHE-RSA-AES256-GCM-SHA384) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"a suite of LibreSSL", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Gateway) with ESMTP (AEAD-CHACHA20-POLY1305) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "AEAD-CHACHA20-POLY1305", 0},
	{"a suite of GnuTLS", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Gateway) with ESMTP (ECDHE_RSA_AES_256_GCM_SHA384) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "ECDHE_RSA_AES_256_GCM_SHA384", 0},
	{"a certificate that is not verified", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example (Gateway) with ESMTP (TLSv1.2 and ECDHE-RSA-AES256-GCM-SHA384, peer not verified) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, policy.TLS12, "ECDHE-RSA-AES256-GCM-SHA384", 0},
	{"SMTP-TLS", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with SMTP-TLS id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Encrypted, 0, "", 0},
	{"a suite that encrypts nothing", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTPS (version=TLSv1.2 cipher=NULL-SHA256 bits=0) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, policy.TLS12, "NULL-SHA256", 0},
	{"a suite that encrypts nothing, by IANA", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTPS id 1 tls TLS_RSA_WITH_NULL_SHA256; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "TLS_RSA_WITH_NULL_SHA256", 0},
	{"no TLS", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (no TLS) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"not TLS", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (not using TLSv1.2) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"TLS that failed", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (STARTTLS failed: TLSv1.2) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"TLS that was not offered", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (TLS was not offered) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"without TLS", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (without TLS) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a version of the program", `from mail.a.example (mail.a.example [192.0.2.1]) by mx.b.example with ESMTP (Gateway-1.2 tls-1.2.x) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"mail.a.example", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a client that is called TLS", `from x (TLS1.3 [192.0.2.1]) by mx.b.example with ESMTP id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a client whose name is TLS", `from x (TLS1.3) by mx.b.example with ESMTP id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "", "mx.b.example", Clear, 0, "", 0},
	{"a client that says TLS in HELO", `from x (HELO TLSv1.3 AES256-SHA) (192.0.2.1) by mx.b.example with SMTP; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a client that says TLS in EHLO", `from x ([192.0.2.1]:39222 "EHLO AES256-SHA TLSv1.3" rhost-flags-OK) by mx.b.example with ESMTP id S1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a sender that is called TLS", `from x (x [192.0.2.1]) by mx.b.example with ESMTP (envelope-from <TLSv1.3/AES256-SHA@x>) id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"a sender that is called TLS, in the clause", `from x (x [192.0.2.1]) by mx.b.example with ESMTP envelope-from <TLS/AES256-SHA@x> id 1; Mon, 23 Nov 2026 17:00:00 +0000`,
		"x", "192.0.2.1", "mx.b.example", Clear, 0, "", 0},
	{"unclosed comment", "from a.example (a.example [192.0.2.1] by b.example with ESMTPS id 1; Mon, 23 Nov 2026 17:00:00 +0000", "", "", "", Unknown, 0, "", 0},
	{"unclosed string", `from "a by b with ESMTPS`, "", "", "", Unknown, 0, "", 0},
	{"nothing", "", "", "", "", Unknown, 0, "", 0},
}

func TestParse(t *testing.T) {
	for _, l := range lines {
		h := Parse(l.line)
		address := ""
		if h.Address.IsValid() {
			address = h.Address.String()
		}
		if h.From != l.from || address != l.address || h.By != l.by || h.Security != l.security || h.Version != l.version || h.Cipher != l.cipher || h.Bits != l.bits {
			t.Errorf("%s: got from %q [%s] by %q %s %q %q %d", l.server, h.From, address, h.By, h.Security, h.Version, h.Cipher, h.Bits)
		}
		if h.Known == "" {
			t.Errorf("%s: not said how that is known", l.server)
		}
		if strings.Contains(l.line, "2026") && h.Problem == "" && (h.Time.IsZero() || h.Time.UTC().Format("2006-01-02") != "2026-11-23") && l.server != "Courier" {
			t.Errorf("%s: time %s", l.server, h.Time)
		}
	}
}

func TestRead(t *testing.T) {
	field := func(protocol, address string) string {
		return "Received: from a.example (a [" + address + "])\r\n\tby b.example with " + protocol + " id 1;\r\n Mon, 23 Nov 2026 17:00:00 +0000\r\n"
	}
	const end = "Subject: x\r\n\r\nReceived: from c by d with SMTP\r\n"
	for _, c := range []struct {
		name, text string
		security   Security
		hops       int
		weakest    int
	}{
		{"oldest first", "From s@a.example Mon Nov 23 17:00:00 2026\n" + field("ESMTPS", "192.0.2.2") + "X: y\n" + field("SMTP", "192.0.2.1") + end, Clear, 2, 0},
		{"unknown counts before TLS", field("ESMTPS", "192.0.2.2") + field("HTTP", "192.0.2.1") + end, Unknown, 2, 0},
		{"clear counts before unknown", field("ESMTP", "192.0.2.2") + field("HTTP", "192.0.2.1") + end, Clear, 2, 1},
		{"all encrypted", field("ESMTPS", "192.0.2.2") + "rEcEiVeD : from a ([192.0.2.1]) (using TLSv1.2 with cipher X (128/128 bits)) by b with ESMTPS\n" + end, Encrypted, 2, 0},
		{"local aside", field("ESMTP", "127.0.0.1") + field("ESMTPS", "192.0.2.1") + end, Encrypted, 2, 0},
		{"only local", field("ESMTP", "127.0.0.1") + end, Encrypted, 1, -1},
		{"none", end, Unknown, 0, -1},
		{"no body", strings.TrimSuffix(field("SMTP", "192.0.2.1"), "\r\n"), Clear, 1, 0},
		{"body without an empty line", field("SMTP", "192.0.2.1") + "hello\n" + field("SMTP", "192.0.2.1"), Clear, 1, 0},
	} {
		chain, err := Read(strings.NewReader(c.text))
		if err != nil || chain.Security() != c.security || len(chain.Hops) != c.hops || chain.Weakest != c.weakest {
			t.Errorf("%s: %s, %d hops, weakest %d, %v", c.name, chain.Security(), len(chain.Hops), chain.Weakest, err)
		}
	}
	for name, bad := range map[string]struct {
		text string
		want error
	}{
		"no header":    {"hello\n", ErrNoHeader},
		"empty":        {"", ErrNoHeader},
		"long line":    {"Received: " + strings.Repeat("x", maxHeader), ErrTooLong},
		"long header":  {strings.Repeat("X: y\n", maxHeader/5+1), ErrTooLong},
		"long field":   {"Received: x\n" + strings.Repeat(" "+strings.Repeat("y", 1000)+"\n", 70), ErrTooLong},
		"many fields":  {strings.Repeat("Received: x\n", maxHops+1) + "\n", ErrTooLong},
		"binary first": {"\x00\x01\x02\n", ErrNoHeader},
	} {
		if _, err := Read(strings.NewReader(bad.text)); !errors.Is(err, bad.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The order in which hops protect.
func TestWeaker(t *testing.T) {
	order := []Hop{
		{Security: Clear}, {Security: Unknown}, {Security: Encrypted, Version: policy.TLS10, Bits: 256}, {Security: Encrypted, Version: policy.TLS12, Bits: 128},
		{Security: Encrypted, Version: policy.TLS12, Bits: 256}, {Security: Encrypted, Version: policy.TLS13, Bits: 128}, {Security: Encrypted},
	}
	for i := range order {
		for j := range order {
			if got := order[i].weaker(order[j]); got != (i < j) {
				t.Errorf("%d weaker than %d: %t", i, j, got)
			}
		}
	}
}

// Whatever a stranger wrote: no hop without a state and its reason, none called local or encrypted for less than a sign of it.
func FuzzParse(f *testing.F) {
	for _, l := range lines {
		f.Add(l.line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		h := Parse(line)
		switch h.Security {
		case Encrypted, Clear, Unknown, Local:
		default:
			t.Fatalf("%q: state %q", line, h.Security)
		}
		if h.Known == "" {
			t.Fatalf("%q: not said how", line)
		}
		lower := strings.ToLower(line)
		if h.Security == Unknown && h.Problem == "" && suite(h.With) {
			t.Fatalf("%q: a suite, and unknown", line)
		}
		if h.Security == Encrypted && null(h.Cipher) {
			t.Fatalf("%q: encrypted by nothing", line)
		}
		if h.Security == Encrypted && h.Cipher == "" && !strings.Contains(lower, "tls") && !strings.Contains(lower, "ssl") && !strings.Contains(lower, "mtps") &&
			!strings.Contains(lower, "https") && !strings.Contains(lower, "encrypted") && !strings.Contains(lower, "cipher") {
			t.Fatalf("%q: encrypted by nothing", line)
		}
		// The same in a message, unless it ends the field.
		if !strings.ContainsAny(line, "\r\n") {
			chain, err := Read(strings.NewReader("Received:" + line + "\n\n"))
			if err != nil || len(chain.Hops) != 1 || chain.Hops[0].Security != h.Security {
				t.Fatalf("%q: %v, %v", line, chain, err)
			}
		}
	})
}
