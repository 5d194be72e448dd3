from travel_planner.agent import create_travel_planner
from travel_planner.offline.client import OfflinePlanner


async def test_the_agent_has_the_name_of_its_route_and_plans_with_its_model() -> None:
    agent = create_travel_planner(OfflinePlanner(tokens_per_second=1_000_000))

    response = await agent.run("Plan a 3-day trip to Tokyo")

    assert agent.name == "TravelPlanner"
    assert response.text.startswith("# 3 days in Tokyo\n")
