/*
 * wrk and h2load have no option for a client certificate. Preloaded into
 * them, this library gives one to each OpenSSL context they create:
 *
 *   BENCH_CERT  PEM chain, leaf first
 *   BENCH_KEY   PEM private key of the leaf
 *
 * A certificate that cannot be used ends the program: a run that silently
 * went without one would measure refusals.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef SSL_CTX *(*make_context)(const SSL_METHOD *);

static void give_up(const char *what)
{
	fprintf(stderr, "clientcert: %s\n", what);
	_exit(3);
}

SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
{
	static make_context next;
	const char *cert = getenv("BENCH_CERT");
	const char *key = getenv("BENCH_KEY");

	if (!next && !(next = (make_context)dlsym(RTLD_NEXT, "SSL_CTX_new")))
		give_up("the program is not linked with OpenSSL");

	SSL_CTX *ctx = next(method);
	if (!ctx)
		return NULL;
	if (!cert || !key)
		give_up("BENCH_CERT and BENCH_KEY must be set");
	if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
		give_up("the certificate in BENCH_CERT cannot be used");
	if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
		give_up("the key in BENCH_KEY does not fit the certificate");
	return ctx;
}
