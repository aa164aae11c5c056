"""`kubectl modelrelease`: what people do and see. Talks to the API server alone; the operator answers through the release's status."""
