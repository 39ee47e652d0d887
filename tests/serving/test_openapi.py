"""Schemathesis asks what the OpenAPI documents allow, and more; no answer may be a 5xx."""

import pytest
from starlette.testclient import TestClient

from minirec.serving.admin import admin_application
from minirec.serving.http import application
from minirec.serving.openapi import admin_openapi, openapi

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")

SETTINGS = hypothesis.settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
MAY_FAIL = {503, 504, 507}  # Draining, late, no room on the disk: said as what they are.


@pytest.mark.parametrize("kind", ["clients", "admins"])
def test_no_request_that_the_document_allows_ends_in_a_5xx(world, tmp_path, kind):
    service = world.service(tmp_path / "serving", {"ann": ["i1"]})
    document, app = {
        "clients": (openapi(), application(service)),
        "admins": (admin_openapi(), admin_application(service, None)),
    }[kind]
    schema, statuses = schemathesis.openapi.from_dict(document), set()
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as client:

        def ask(case):
            response = client.request(**case.as_transport_kwargs(base_url="http://localhost"))
            statuses.add(response.status_code)
            assert response.status_code < 500 or response.status_code in MAY_FAIL
            assert response.headers["content-type"].startswith(("application/json", "text/plain"))

        for result in schema.get_all_operations():
            SETTINGS(hypothesis.given(case=result.ok().as_strategy())(ask))()
    service.engine.close()
    assert 200 in statuses
    assert statuses & {400, 422}
