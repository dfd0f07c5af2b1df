// One GET and one POST with Node's own fetch; one JSON object a line for each.
const url = process.argv[2];
const tell = async (step, response) =>
  console.log(JSON.stringify({ step, got: [response.status, (await response.text()).slice(0, 40)] }));
await tell("get", await fetch(url));
await tell("post", await fetch(url, { method: "POST", body: "x".repeat(300000) }));
