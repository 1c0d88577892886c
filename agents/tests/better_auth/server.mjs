// A platform with Better Auth, which keeps everything in memory:
//
//   BETTER_AUTH_SECRET=… node server.mjs PORT EdDSA|RS256 secret|jwks
//
// The second argument is the algorithm of the keys in its JWKS, the third says what signs the
// cookie session_data.

import { createServer } from "node:http";

import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { signJWT } from "better-auth/crypto";
import { toNodeHandler } from "better-auth/node";
import { createJwk, jwt, organization } from "better-auth/plugins";

const [port, alg, cookieSigner] = process.argv.slice(2);
const secret = process.env.BETTER_AUTH_SECRET;
const baseURL = `http://127.0.0.1:${port}`;

const issuer = "hyvve";
const audience = "agentos";

const scopes = {
  owner: ["workflows:read", "workflows:run", "sessions:read"],
  member: ["workflows:read"],
};

// What AgentOS is told besides the subject, whatever signs it. A session keeps its organization
// when somebody removes the user from there, so the members are asked.
async function claims({ user, session }) {
  const { adapter } = await auth.$context;
  const member = await adapter.findOne({
    model: "member",
    where: [
      { field: "userId", value: user.id },
      { field: "organizationId", value: session.activeOrganizationId ?? "" },
    ],
  });
  return member ? { tenant: member.organizationId, scopes: scopes[member.role] } : {};
}

const jwtOptions = {
  jwks: { keyPairConfig: { alg } },
  jwt: { issuer, audience, expirationTime: "5m", definePayload: claims },
  sessionCookieCache: cookieSigner === "jwks",
};

const verificationTokens = new Map();

const auth = betterAuth({
  baseURL,
  secret,
  database: memoryAdapter({
    user: [],
    session: [],
    account: [],
    verification: [],
    jwks: [],
    organization: [],
    member: [],
    invitation: [],
  }),
  emailAndPassword: { enabled: true, autoSignIn: false },
  emailVerification: {
    sendOnSignUp: true,
    sendVerificationEmail: async ({ user, token }) => {
      verificationTokens.set(user.id, token);
    },
  },
  session: { cookieCache: { enabled: true, strategy: "jwt" } },
  plugins: [organization(), jwt(jwtOptions)],
});

async function signedIn(request) {
  const found = await auth.api.getSession({ headers: request.headers });
  if (!found) throw new Error("not signed in");
  return found;
}

const routes = {
  // A route of the platform: a short-lived token that is signed with the shared secret.
  "/api/agentos-token": async (request, { audience: aud = audience }) => {
    const found = await signedIn(request);
    const payload = { ...(await claims(found)), iss: issuer, aud, sub: found.user.id };
    return { token: await signJWT(payload, secret, 5 * 60) };
  },

  // What only the tests need.
  "/tests/jwks-token": async (request, { audience: aud }) => {
    const found = await signedIn(request);
    const payload = { ...(await claims(found)), aud, sub: found.user.id };
    return auth.api.signJWT({ body: { payload } });
  },
  "/tests/verification-token": async (request) => {
    const { user } = await signedIn(request);
    return { token: verificationTokens.get(user.id) };
  },
  "/tests/new-key": async () => {
    const { id } = await createJwk({ context: await auth.$context }, jwtOptions);
    return { kid: id };
  },
  "/tests/new-member": async (request, { organizationId }) => {
    const { user } = await signedIn(request);
    return auth.api.addMember({ body: { userId: user.id, organizationId, role: "member" } });
  },
};

async function handle(request) {
  const { pathname, searchParams } = new URL(request.url);
  const route = routes[pathname];
  if (!route) return auth.handler(request);
  return Response.json(await route(request, Object.fromEntries(searchParams)));
}

createServer(toNodeHandler(handle)).listen(Number(port), "127.0.0.1");
