/*
 * A milter that does nothing, on Debian's libmilter: what any milter costs at least.
 *
 *   nullmilter all|mail|envelope|edits SOCKET
 *
 * all       asks for every event, with an answer to each, as filters do that leave the defaults alone
 * mail      asks for MAIL, and lets go of the message then: no milter that looks at senders costs less
 * envelope  asks for MAIL, RCPT and the end of the message only
 * edits     the same, and has the MTA write what tlsonly has it write: a header above all others, and RET=HDRS
 */
#include <string.h>
#include <sys/stat.h>
#include <libmilter/mfapi.h>

static int edits;
static char from[512];

static sfsistat on_connect(SMFICTX *c, char *h, _SOCK_ADDR *a) { (void)c; (void)h; (void)a; return SMFIS_CONTINUE; }
static sfsistat on_helo(SMFICTX *c, char *h) { (void)c; (void)h; return SMFIS_CONTINUE; }
static sfsistat on_mail(SMFICTX *c, char **a) { (void)c; strncpy(from, a[0], sizeof from - 1); return SMFIS_CONTINUE; }
static sfsistat on_mail_only(SMFICTX *c, char **a) { (void)c; (void)a; return SMFIS_ACCEPT; }
static sfsistat on_rcpt(SMFICTX *c, char **a) { (void)c; (void)a; return SMFIS_CONTINUE; }
static sfsistat on_header(SMFICTX *c, char *n, char *v) { (void)c; (void)n; (void)v; return SMFIS_CONTINUE; }
static sfsistat on_eoh(SMFICTX *c) { (void)c; return SMFIS_CONTINUE; }
static sfsistat on_body(SMFICTX *c, unsigned char *b, size_t n) { (void)c; (void)b; (void)n; return SMFIS_CONTINUE; }
static sfsistat on_unknown(SMFICTX *c, const char *s) { (void)c; (void)s; return SMFIS_CONTINUE; }
static sfsistat on_data(SMFICTX *c) { (void)c; return SMFIS_CONTINUE; }
static sfsistat on_abort(SMFICTX *c) { (void)c; return SMFIS_CONTINUE; }
static sfsistat on_close(SMFICTX *c) { (void)c; return SMFIS_CONTINUE; }

static sfsistat on_eom(SMFICTX *c)
{
	if (edits && (smfi_insheader(c, 0, "X-Null", "pass; rule=\"clinic\"; tls=encrypt") != MI_SUCCESS ||
	    smfi_chgfrom(c, from, "RET=HDRS") != MI_SUCCESS))
		return SMFIS_TEMPFAIL;
	return SMFIS_ACCEPT;
}

int main(int argc, char **argv)
{
	struct smfiDesc all = {
		"null", SMFI_VERSION, 0, on_connect, on_helo, on_mail, on_rcpt, on_header, on_eoh, on_body, on_eom, on_abort, on_close,
		on_unknown, on_data, NULL
	};
	struct smfiDesc envelope = {
		"null", SMFI_VERSION, SMFIF_ADDHDRS | SMFIF_CHGFROM, NULL, NULL, on_mail, on_rcpt, NULL, NULL, NULL, on_eom, on_abort, on_close,
		NULL, NULL, NULL
	};
	struct smfiDesc mail = {
		"null", SMFI_VERSION, 0, NULL, NULL, on_mail_only, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
	};
	struct smfiDesc asked;

	if (argc != 3)
		return 64;
	edits = strcmp(argv[1], "edits") == 0;
	asked = strcmp(argv[1], "all") == 0 ? all : strcmp(argv[1], "mail") == 0 ? mail : envelope;
	umask(0); /* Postfix is another user */
	if (smfi_setconn(argv[2]) == MI_FAILURE || smfi_register(asked) == MI_FAILURE)
		return 70;
	return smfi_main() == MI_SUCCESS ? 0 : 70;
}
